"""One question from its prompt to its answer. The policy is outside: `step` takes what it wrote, gives what it sees."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

from PIL import Image

from hypereyes_jax.env import observations
from hypereyes_jax.env.actions import (
    IMAGE_SEARCH,
    TEXT_SEARCH,
    Answer,
    ImageSearch,
    Malformed,
    ParsedTurn,
    TextSearch,
    parse_turn,
)
from hypereyes_jax.env.crops import UNITS_IN_WORDS, BoxUnits, crop, to_fractions
from hypereyes_jax.env.prompts import PromptStyle, system_prompt
from hypereyes_jax.env.types import (
    EpisodeResult,
    FatalSearchError,
    Invocation,
    Part,
    Question,
    SearchBackend,
    SearchError,
    SearchHit,
    StopReason,
    TurnRecord,
)


@dataclass(frozen=True)
class EpisodeConfig:
    """Rules of an episode. Defaults are the paper's (arXiv 2605.07177) and, where it is silent, the authors' code."""

    max_turns: int = 9  # turns of the model
    max_rounds: int = 8  # turns with searches
    text_request: int = 10  # results asked for, of which ...
    text_min_score: float = 0.6  # ... those below are dropped, and ...
    text_k: int = 3  # ... the first so many are shown
    image_k: int = 3  # asked for and shown, best first; no threshold
    width_cap: int | None = None  # searches of one turn that are run; None = all
    serial: bool = False  # only the first box or query of a turn is run: what parallel search is compared with
    one_call: bool = False  # only the first call of a turn is run (the authors' code); False = all calls together
    broken_json_ends: bool = False  # a call that is no JSON ends the episode (the authors' code); False = it is told so
    box_units: BoxUnits = "unit"
    show_crops: bool = True  # crops are attached to the observation, before its text
    crop_max_side: int = 1000  # pixels
    max_images: int = 50  # images shown to the model in an episode; later crops are searched but not shown
    repeat_question: bool = True  # after each tool response
    content_limit: int = 1500  # characters of a result's content that are shown
    prompt_style: PromptStyle = "full"
    system: str | None = None  # replaces the built-in system prompt


class Episode:
    """The state of one rollout. Used once, by one task at a time.

    Drive it with `prompt()`, then `await step(text)` until that returns None; then read `result()`. Searches that fail
    one by one are told to the model; when every search of a turn fails for no fault of the request, the episode ends
    with StopReason.INFRASTRUCTURE, which says nothing about the policy and must be masked.
    """

    def __init__(self, question: Question, backend: SearchBackend, config: EpisodeConfig | None = None):
        self.question = question
        self.config = config or EpisodeConfig()
        self.stop_reason: StopReason | None = None
        self._backend = backend
        self._images: dict[str, Image.Image] = {f"img_{i}": image for i, image in enumerate(question.images)}
        self._next_id = len(self._images)  # a failed crop uses up its id, too
        self._shown = len(self._images)
        self._turns: list[TurnRecord] = []
        self._rounds = 0
        self._answer: str | None = None
        self._why = ""

    @property
    def system(self) -> str:
        config = self.config
        if config.system is not None:
            return config.system
        return system_prompt(config.prompt_style, config.box_units, config.max_rounds)

    @property
    def last_turn(self) -> TurnRecord:
        """What the latest turn asked for and got. Raises IndexError before the first."""
        return self._turns[-1]

    def prompt(self) -> tuple[Part, ...]:
        """The first user message: the images, then the question."""
        return (*self.question.images, self.question.text)

    def image(self, image_id: str) -> Image.Image:
        """An image of the question or a crop, by its id. Raises KeyError for an id that was never given."""
        return self._images[image_id]

    async def step(self, text: str, truncated: bool = False) -> tuple[Part, ...] | None:
        """Plays one turn of the model.

        Args:
          text: the turn as sampled, without its stop token.
          truncated: the turn hit its token limit.

        Returns:
          The observation's user message (crops, then text), or None when the episode is over.

        Raises:
          FatalSearchError: no search can work any more (no credit left); the whole run should stop.
        """
        if self.stop_reason is not None:
            raise RuntimeError(f"step() on an episode that ended: {self.stop_reason}")
        turn = parse_turn(text)
        stop = self._stop_of(turn, truncated)
        if stop is not None:
            if stop is StopReason.ANSWERED and isinstance(turn.action, Answer) and turn.action.closed:
                self._answer = turn.action.text
            malformed = turn.action.why if isinstance(turn.action, Malformed) else ""
            self._turns.append(TurnRecord(text, turn.reason, (), turn.is_round, malformed))
            self.stop_reason = stop
            return None

        self._rounds += 1
        started = time.perf_counter()
        planned, crops, notes, skipped = self._plan(turn)
        outcomes = await self._run(planned)
        invocations = tuple(invocation for invocation, _ in outcomes)
        errors = [error for _, error in outcomes if error is not None]
        for error in errors:
            if isinstance(error, FatalSearchError):
                self.fail_infrastructure(str(error))
                raise error
        outage = bool(errors) and not any(error.refused for error in errors) and not _any_search_worked(invocations)

        malformed = "; ".join(call.why for call in turn.calls if isinstance(call, Malformed))
        parts, shown_text = self._observation(invocations, crops, notes)
        if outage:
            shown_text = ""
        self._turns.append(
            TurnRecord(
                text=text,
                reason=turn.reason,
                invocations=invocations,
                is_round=True,
                malformed=malformed,
                seconds=time.perf_counter() - started,
                observation=shown_text,
                skipped=skipped,
            )
        )
        if outage:
            self.fail_infrastructure(f"every search of a turn failed: {errors[0]}")
            return None
        return parts

    def end(self, stop: StopReason, why: str = "") -> None:
        """Ends the episode from outside (the context is full, say). The first reason given stays."""
        if self.stop_reason is None:
            self.stop_reason, self._why = stop, why

    def fail_infrastructure(self, why: str) -> None:
        """Ends the episode for a failure that is not the policy's."""
        self.end(StopReason.INFRASTRUCTURE, why)

    def result(self) -> EpisodeResult:
        """What happened. Raises RuntimeError while the episode goes on."""
        if self.stop_reason is None:
            raise RuntimeError("the episode has not ended; step() it on, or end() it")
        return EpisodeResult(self.question, tuple(self._turns), self.stop_reason, self._answer, self._why)

    def _stop_of(self, turn: ParsedTurn, truncated: bool) -> StopReason | None:
        if truncated:
            return StopReason.TRUNCATED
        if isinstance(turn.action, Answer):
            return StopReason.ANSWERED
        if isinstance(turn.action, Malformed):
            ends = turn.action.broken_json and self.config.broken_json_ends
            if ends or not turn.action.is_call:
                return StopReason.NO_ACTION
        return StopReason.TURN_LIMIT if len(self._turns) + 1 >= self.config.max_turns else None

    def _plan(self, turn: ParsedTurn) -> tuple[list[Invocation], dict[str, Image.Image], list[str], int]:
        """The searches to make, the crops they need, notes for the model, and how many searches were left out."""
        config = self.config
        calls = turn.calls[:1] if config.one_call else turn.calls
        notes = [f"error: {call.why}" for call in calls if isinstance(call, Malformed)]
        if self._rounds > config.max_rounds:
            return [], {}, ["no search was made: none was left"], turn.invocations
        wanted: list[tuple[ImageSearch | TextSearch, int]] = [
            (call, i) for call in calls if not isinstance(call, Malformed) for i in range(call.invocations)
        ]
        cap = 1 if config.serial else config.width_cap
        kept = wanted if cap is None else wanted[:cap]
        skipped = turn.invocations - len(kept)
        if skipped:
            notes.append(f"only the first {len(kept)} of {turn.invocations} searches were run")

        planned: list[Invocation] = []
        crops: dict[str, Image.Image] = {}
        for call, i in kept:
            if isinstance(call, TextSearch):
                planned.append(Invocation(TEXT_SEARCH, call.queries[i]))
                continue
            per_image = max(1, len(call.boxes))
            invocation, cut = self._plan_image(call, call.image_ids[i // per_image], i % per_image)
            planned.append(invocation)
            if cut is not None:
                crops[invocation.crop_id] = cut
        self._images.update(crops)
        return planned, crops, notes, skipped

    def _plan_image(self, call: ImageSearch, image_id: str, index: int) -> tuple[Invocation, Image.Image | None]:
        source = self._images.get(image_id)
        if source is None:
            known = ", ".join(self._images) if len(self._images) <= 12 else f"img_0 to img_{self._next_id - 1}"
            error = f"there is no image {image_id}; there are: {known}" if known else "there is no image to search"
            return Invocation(IMAGE_SEARCH, image_id, source=image_id, error=error), None
        if not call.boxes:
            return Invocation(IMAGE_SEARCH, image_id, source=image_id), None

        crop_id = f"img_{self._next_id}"
        self._next_id += 1
        failed = Invocation(IMAGE_SEARCH, crop_id, source=image_id, crop_id=crop_id)
        written = call.boxes[index]
        if written is None:
            return replace(failed, error="crop failed: a box is four numbers [x1, y1, x2, y2]"), None
        box = to_fractions(written, source.size, self.config.box_units)
        if box is None:
            return replace(failed, error=f"crop failed: give boxes in {UNITS_IN_WORDS[self.config.box_units]}"), None
        cut = crop(source, box, self.config.crop_max_side)
        if cut is None:
            return replace(failed, box=box, error="crop failed: the box is empty or outside the image"), None
        return replace(failed, box=box), cut

    async def _run(self, planned: list[Invocation]) -> list[tuple[Invocation, SearchError | None]]:
        """All searches of the turn at once. Anything but a SearchError is a defect of the backend and propagates."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._search(invocation)) for invocation in planned]
        return [task.result() for task in tasks]

    async def _search(self, invocation: Invocation) -> tuple[Invocation, SearchError | None]:
        if invocation.error:
            return invocation, None
        config, started = self.config, time.perf_counter()
        hits: list[SearchHit] = []
        failure: SearchError | None = None
        try:
            if invocation.tool == TEXT_SEARCH:
                found = await self._backend.text_search(invocation.query, config.text_request)
                hits = [hit for hit in found if hit.score >= config.text_min_score][: config.text_k]
            else:
                found = await self._backend.image_search(self._images[invocation.query], config.image_k)
                hits = sorted(found[: config.image_k], key=lambda hit: -hit.score)
        except SearchError as error:
            failure = error
        return (
            replace(
                invocation,
                hits=tuple(hits),
                error="" if failure is None else f"search failed: {failure}",
                seconds=time.perf_counter() - started,
            ),
            failure,
        )

    def _observation(
        self, invocations: tuple[Invocation, ...], crops: dict[str, Image.Image], notes: list[str]
    ) -> tuple[tuple[Part, ...], str]:
        config = self.config
        text = observations.response(invocations, notes, config.content_limit)
        if config.repeat_question and (invocations or not notes):
            text += f"\nQuestion: {self.question.text}"
        hint = observations.budget_hint(config.max_rounds - self._rounds)
        if hint:
            text += f"\n{hint}"
        shown: list[Part] = []
        if config.show_crops:
            shown.extend(list(crops.values())[: max(0, config.max_images - self._shown)])
            self._shown += len(shown)
        return (*shown, text), text


def _any_search_worked(invocations: tuple[Invocation, ...]) -> bool:
    return any(not invocation.error for invocation in invocations)
