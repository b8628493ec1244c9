"""A scripted searcher with tunable waste: where demonstrations come from when there is no stronger model to ask.

It plays real episodes. What it reads it reads from the search results: a crop that finds the wrong page leads it to the
wrong facts and, consistently, to the wrong answer. Its habits decide how often it is wasteful or careless.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hypereyes_jax.data.demonstration import Demonstration, Example
from hypereyes_jax.data.types import SynthQuestion
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.env.types import Box, Part, SearchBackend, StopReason

# Box edges are written on this many steps: coarse enough for a small model, fine enough for the image search
# (the rounding moves an edge by at most 2 % of the image).
GRID = 25


@dataclass(frozen=True)
class Habits:
    """Probabilities, each drawn once an episode."""

    guess: float = 0.0  # answers without any search
    glance: float = 0.0  # searches the whole image first, which finds nothing useful
    rough: float = 0.0  # cuts carelessly: boxes far off the entities
    everything: float = 0.0  # also searches entities that the question does not need
    wide_images: float = 1.0  # searches all regions in one call; else one or two a turn
    wide_texts: float = 1.0  # asks all queries of a step in one call; else one or two a turn
    hasty: float = 0.0  # answers before looking the facts up
    off_topic: float = 0.0  # looks up another fact than the one needed
    repeat: float = 0.0  # makes its last search once more


WASTEFUL = Habits(  # the miniature's base model learns from these: it can do everything, and mostly doesn't
    guess=0.2,
    glance=0.25,
    rough=0.5,
    everything=0.3,
    wide_images=0.3,
    wide_texts=0.3,
    hasty=0.25,
    off_topic=0.25,
    repeat=0.2,
)
CAREFUL = Habits(  # stands in for the strong model that rejection sampling draws from
    guess=0.05,
    glance=0.5,  # less often, and sampling at top-p 0.7 may cut the habit off: RL would have no waste to unlearn
    rough=0.1,
    everything=0.2,
    wide_images=0.05,
    wide_texts=0.05,
    hasty=0.05,
    off_topic=0.1,
    repeat=0.1,
)

_OFF_TOPIC = ("capital", "currency", "population", "area", "region", "official language")


def image_call(boxes: Sequence[Box], image_id: str = "img_0") -> str:
    """An image_search call; no boxes = the whole image."""
    if not boxes:
        return f'<tool_call>{{"name": "image_search", "arguments": {{"image_id": "{image_id}"}}}}</tool_call>'
    area = ", ".join("[" + ", ".join(f"{edge:.2f}" for edge in box) + "]" for box in boxes)
    arguments = f'{{"image_id": "{image_id}", "area": [{area}]}}'
    return f'<tool_call>{{"name": "image_search", "arguments": {arguments}}}</tool_call>'


def crop_call(boxes: Sequence[Box], image_id: str = "img_0") -> str:
    """A call of the tool that cuts regions out without searching them."""
    arguments = {"image_id": image_id, "area": [[round(edge, 2) for edge in box] for box in boxes]}
    return f"<tool_call>{json.dumps({'name': 'crop', 'arguments': arguments})}</tool_call>"


def code_call(boxes: Sequence[Box], image_id: str = "img_0") -> str:
    """A call of the tool that runs code, with the code that cuts regions out."""
    lines = [f"show(crop({image_id}, {', '.join(f'{edge:.2f}' for edge in box)}))" for box in boxes]
    return f"<tool_call>{json.dumps({'name': 'python', 'arguments': {'code': '; '.join(lines)}})}</tool_call>"


_CALLS = {"ugs": image_call, "llm-crop": crop_call, "code-crop": code_call}  # by paradigm


def _search_of_crops(episode: Episode) -> str:
    """The turn after crops were cut, which searches all of them by the ids that the tool told."""
    texts = [call.text for call in episode.last_turn.invocations if call.text]
    ids = texts[-1].splitlines()[-1] if texts else "img_0"
    return f"<reason>Search the crops.</reason>{image_call((), ids)}"


def text_call(queries: Sequence[str]) -> str:
    """The tool call that searches for all of these at once."""
    queries_json = json.dumps(list(queries), ensure_ascii=False)  # a name is spelt as it was read
    return f'<tool_call>{{"name": "text_search", "arguments": {{"input": {queries_json}}}}}</tool_call>'


def answer_turn(reason: str, answer: str) -> str:
    """The last turn of an episode."""
    # The space makes a name the same tokens here as in running text, where it is copied from.
    return f"<reason>{reason}</reason><answer> {answer}</answer>"


def snap(box: Box) -> Box:
    """Moves a box to the grid, outwards never below one step wide."""
    x1, y1, x2, y2 = (round(edge * GRID) / GRID for edge in box)
    step = 1 / GRID
    return x1, y1, min(1.0, max(x2, x1 + step)), min(1.0, max(y2, y1 + step))


def _rough(box: Box, rng: np.random.Generator) -> Box:
    """Moved by about half its size in each direction: the crop shows parts of several things."""
    x1, y1, x2, y2 = box
    dx, dy = (x2 - x1) * rng.choice([-0.5, 0.5]), (y2 - y1) * rng.choice([-0.5, 0.5])
    stretch = rng.uniform(0.9, 1.6)
    cx, cy, w, h = (x1 + x2) / 2 + dx, (y1 + y2) / 2 + dy, (x2 - x1) * stretch / 2, (y2 - y1) * stretch / 2
    low, high = 1 / GRID, 1 - 1 / GRID
    return (
        max(0.0, min(cx - w, high)),
        max(0.0, min(cy - h, high)),
        max(low, min(1.0, cx + w)),
        max(low, min(1.0, cy + h)),
    )


class ScriptedSearcher:
    """Writes the turns of one episode."""

    def __init__(self, question: SynthQuestion, habits: Habits, rng: np.random.Generator, budget: int = 8):
        self._oracle = question.oracle
        self._rng = rng
        self._budget = budget  # tool rounds; turns past it are answers
        self._habits = {name: rng.random() < p for name, p in vars(habits).items()}
        self._names: dict[int, str | None] = {}  # entity -> what it was taken for

    def turns(self, episode: Episode) -> Iterator[str]:
        """Texts of turns, the last one with an answer; advance only after the previous turn was played."""
        do, oracle = self._habits, self._oracle
        last = ""
        text_searches = 0

        def spend(text: str) -> str:
            nonlocal last, text_searches
            last, text_searches = text, text_searches + 1
            return text

        if do["guess"]:
            yield self._answer("I know this one.", None)
            return
        if oracle.boxes:
            if do["glance"] and text_searches < self._budget:
                yield spend(f"<reason>Search the whole image first.</reason>{image_call(())}")
            for text, group in self._image_turns(episode):
                if text_searches >= self._budget:
                    break
                yield spend(text)
                if episode.config.paradigm != "ugs":
                    if text_searches >= self._budget:
                        break
                    yield spend(_search_of_crops(episode))
                calls = episode.last_turn.invocations
                for entity, call in zip(group, calls, strict=False):
                    self._names[entity] = call.hits[0].title if call.hits else None
            if do["repeat"] and last and text_searches < self._budget:
                yield spend(last.replace(_reason_of(last), "Search that again."))
        if do["hasty"]:
            yield self._answer("That is enough to tell.", None)
            return
        names = self._read_names()
        read_all = True
        for queries in oracle.rounds_from(names):
            for text in self._text_turns(queries):
                if text_searches >= self._budget:
                    read_all = False
                    break
                yield spend(text)
        if do["repeat"] and not oracle.boxes and last and text_searches < self._budget:
            yield spend(last.replace(_reason_of(last), "Search that again."))
        reasoning, answer = oracle.reasoning_from(names), oracle.answer_from(names)
        if do["off_topic"] or not read_all or not reasoning or answer is None:
            yield self._answer("I could not find it.", None)
        else:
            yield self._answer(reasoning, answer)

    def _read_names(self) -> list[str | None]:
        return [self._names.get(entity) for entity in self._oracle.matter]

    def _image_turns(self, episode: Episode) -> Iterator[tuple[str, tuple[int, ...]]]:
        oracle, rng = self._oracle, self._rng
        # Those that matter come first and in the plan's order, so that what is found can be read from top to bottom.
        idle = [i for i in range(len(oracle.boxes)) if i not in oracle.matter]
        entities = (*oracle.matter, *(idle if self._habits["everything"] else ()))
        width = self._width(len(entities), self._habits["wide_images"])
        manner = "Rough crops will do." if self._habits["rough"] else "Cut each one out."
        for start in range(0, len(entities), width):
            group = entities[start : start + width]
            boxes = [oracle.boxes[i] for i in group]
            if self._habits["rough"]:
                boxes = [_rough(box, rng) for box in boxes]
            if len(group) == len(entities):
                plan = f"Search all {len(group)} at once." if len(group) > 1 else "Search the one in question."
            else:
                plan = "Search a part first." if start == 0 else "Now the next."
            call = _CALLS[episode.config.paradigm]([snap(box) for box in boxes])
            yield f"<reason>{plan} {manner}</reason>{call}", group

    def _text_turns(self, queries: Sequence[str]) -> Iterator[str]:
        rng = self._rng
        plan = "Look the facts up"
        if self._habits["off_topic"]:
            other = str(rng.choice([a for a in _OFF_TOPIC if not any(a in query for query in queries)]))
            subjects = [query.split(" of ", 1)[-1] for query in queries]
            queries, plan = [f"{other} of {subject}" for subject in subjects], "Look something up"
        width = self._width(len(queries), self._habits["wide_texts"])
        for start in range(0, len(queries), width):
            group = queries[start : start + width]
            how = "at once." if len(group) == len(queries) else ("one by one." if start == 0 else "further.")
            yield f"<reason>{plan} {how}</reason>{text_call(group)}"

    def _width(self, things: int, wide: bool) -> int:
        """Searches a turn: all, or so few that they queue, though never for more than four turns."""
        return max(1, things) if wide else max(int(self._rng.integers(1, 3)), -(-things // 4))

    def _answer(self, reason: str, answer: str | None) -> str:
        if answer is None:
            answer = str(self._rng.choice(self._oracle.distractors))
        return answer_turn(reason, answer)


def _reason_of(turn: str) -> str:
    return turn.split("<reason>", 1)[1].split("</reason>", 1)[0]


async def demonstrate(
    question: SynthQuestion,
    backend: SearchBackend,
    habits: Habits,
    rng: np.random.Generator,
    config: EpisodeConfig | None = None,
    budget: int = 8,
) -> Demonstration:
    """Plays one episode within `budget` tool rounds and records it."""
    episode = Episode(question.question, backend, config)
    searcher = ScriptedSearcher(question, habits, rng, budget)
    observations: list[tuple[Part, ...]] = [episode.prompt()]
    for text in searcher.turns(episode):
        parts = await episode.step(text)
        if parts is None:
            break
        observations.append(parts)
    if episode.stop_reason is None:
        episode.end(StopReason.TURN_LIMIT, "the searcher had nothing more to say")
    result = episode.result()
    turns = tuple(turn.text for turn in result.turns)
    return Demonstration(Example(question.question.id, episode.system, tuple(observations), turns), result)
