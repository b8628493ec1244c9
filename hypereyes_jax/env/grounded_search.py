"""Unified grounded search: many regions and many queries of one turn, cut out and searched all at once."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from hypereyes_jax.env.actions import IMAGE_SEARCH, MOST_IGNORED, TEXT_SEARCH, Call, ImageSearch, Malformed, TextSearch
from hypereyes_jax.env.concurrent import all_at_once
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.media.crops import UNITS_IN_WORDS, crop, to_fractions
from hypereyes_jax.env.search.own_backend import checked_hits
from hypereyes_jax.env.types import FatalSearchError, Invocation, SearchBackend, SearchError, SearchHit
from hypereyes_jax.env.web.untrusted import one_line

_ID_CHARACTERS = 100  # of the name of an image that there is not


@dataclass(frozen=True)
class SearchOutcome:
    """What the searches of one turn came to."""

    invocations: tuple[Invocation, ...]
    crops: Mapping[str, Image.Image]  # by id, those that could be cut
    notes: tuple[str, ...]  # what the model should know besides: malformed calls, searches left out
    skipped: int  # searches asked for beyond the width limit
    failures: tuple[SearchError, ...] = ()

    @property
    def outage(self) -> str:
        """Why every search failed, where none was refused: the service is down. "" otherwise."""
        worked = any(not invocation.error for invocation in self.invocations)
        down = bool(self.failures) and not worked and not any(failure.refused for failure in self.failures)
        return str(self.failures[0]) if down else ""


class GroundedSearch:
    """The images that can be searched, by id, and the searching of them.

    Args:
      images: what there is at the start.
      name: the id of a new crop, from a running number (a failed crop uses one up) and the crop (None = failed);
        default "img_{number}", counted on from the images given.
    """

    def __init__(
        self,
        images: Mapping[str, Image.Image],
        backend: SearchBackend,
        config: EpisodeConfig,
        name: Callable[[int, Image.Image | None], str] | None = None,
    ):
        self.images = dict(images)
        self._backend, self._config = backend, config
        self._name = name or (lambda number, cut: f"img_{number}")
        self._next = len(self.images)
        self._image_searches = 0  # planned to be sent

    def add(self, image: Image.Image) -> str:
        """Makes an image searchable and returns its id."""
        image_id = self._name(self._next, image)
        self._next += 1
        self.images[image_id] = image
        return image_id

    async def search(self, calls: Sequence[Call], width: int | None = None) -> SearchOutcome:
        """Runs all searches of a turn together.

        Args:
          width: searches that may be run; default as `EpisodeConfig` says.

        Raises:
          FatalSearchError: no search can work any more.
          Exception: whatever else the backend raises, which is a defect of it.
        """
        plan, crops, notes, excess = self._plan(calls, self._config.width if width is None else width)
        results = await all_at_once(self._search(invocation) for invocation in plan)
        failures = tuple(failure for _, failure in results if failure is not None)
        for failure in failures:
            if isinstance(failure, FatalSearchError):
                raise failure
        return SearchOutcome(tuple(invocation for invocation, _ in results), crops, tuple(notes), excess, failures)

    def _plan(
        self, calls: Sequence[Call], width: int
    ) -> tuple[list[Invocation], dict[str, Image.Image], list[str], int]:
        notes = [f"error: {call.why}" for call in calls if isinstance(call, Malformed)]
        unusable = sum(call.unusable for call in calls if isinstance(call, TextSearch))
        if unusable:
            notes.append(f'error: {unusable} of the entries of "input" were no texts and were not searched')
        names = dict.fromkeys(name for call in calls for name in getattr(call, "ignored", ()))
        if names:
            some = ", ".join(repr(name) for name in itertools.islice(names, MOST_IGNORED))
            notes.append(f"error: a call of these searches has no field {some}; nothing was read from it")
        requested = sum(call.entries for call in calls if isinstance(call, ImageSearch | TextSearch))
        plan: list[Invocation] = []
        crops: dict[str, Image.Image] = {}
        # A model may ask for the product of two long lists: no more of it than is run is ever laid out.
        for call, i in itertools.islice(_wanted(calls), width):
            if isinstance(call, TextSearch):
                plan.append(Invocation(TEXT_SEARCH, call.queries[i]))
                continue
            per_image = max(1, len(call.boxes))
            invocation, region = self._plan_image(call, call.image_ids[i // per_image], i % per_image)
            plan.append(invocation)
            if region is not None:
                crops[invocation.crop_id] = region
        excess = requested - len(plan)
        if excess:
            notes.append(f"only the first {len(plan)} of {requested} searches were run")
        self.images.update(crops)
        return plan, crops, notes, excess

    def _plan_image(self, call: ImageSearch, image_id: str, index: int) -> tuple[Invocation, Image.Image | None]:
        source = self.images.get(image_id)
        if source is None:
            names = list(self.images) if len(self.images) <= 12 else [*list(self.images)[:11], "..."]
            image_id = one_line(image_id, _ID_CHARACTERS)  # a model may write anything, which is shown twice
            error = f"there is no image {image_id}; there are: {', '.join(names)}" if names else "there are no images"
            return Invocation(IMAGE_SEARCH, image_id, source=image_id, error=error, sent=False), None
        most = self._config.image_searches
        if most is not None and self._image_searches >= most:
            error = "no image search is left"
            return Invocation(IMAGE_SEARCH, image_id, source=image_id, error=error, sent=False), None
        if not call.boxes:
            self._image_searches += 1
            return Invocation(IMAGE_SEARCH, image_id, source=image_id), None

        if self._config.paradigm != "ugs":
            error = "image_search takes whole images here: cut the regions out first, then search them by their ids"
            return Invocation(IMAGE_SEARCH, image_id, source=image_id, error=error, sent=False), None
        units, numbers, region, error = self._config.box_units, call.boxes[index], None, ""
        box = None if numbers is None else to_fractions(numbers, source.size, units)
        if numbers is None:
            error = "crop failed: a box is four numbers [x1, y1, x2, y2]"
        elif box is None:
            error = f"crop failed: give boxes in {UNITS_IN_WORDS[units]}"
        else:
            region = crop(source, box, self._config.crop_max_side)
            error = "" if region is not None else "crop failed: the box is empty or outside the image"
        self._image_searches += region is not None
        crop_id = self._name(self._next, region)
        self._next += 1
        invocation = Invocation(
            IMAGE_SEARCH, crop_id, source=image_id, box=box, crop_id=crop_id, error=error, sent=region is not None
        )
        return invocation, region

    async def _search(self, invocation: Invocation) -> tuple[Invocation, SearchError | None]:
        """One search. What it raises but a SearchError is a defect of the backend and propagates."""
        if invocation.error:
            return invocation, None
        config, start = self._config, time.perf_counter()
        hits: list[SearchHit] = []
        failure: SearchError | None = None
        try:
            if invocation.tool == TEXT_SEARCH:
                reply = await self._backend.text_search(invocation.query, config.text_request)
                reply = checked_hits(reply, self._backend, TEXT_SEARCH)
                hits = [hit for hit in reply if hit.score >= config.text_min_score][: config.text_k]
            else:
                reply = await self._backend.image_search(self.images[invocation.query], config.image_k)
                reply = checked_hits(reply, self._backend, IMAGE_SEARCH)
                hits = sorted(reply[: config.image_k], key=lambda hit: -hit.score)
        except SearchError as error:
            failure = error
        result = replace(
            invocation,
            hits=tuple(hits),
            error="" if failure is None else failure_text(failure),
            seconds=time.perf_counter() - start,
            sent=failure is None or failure.sent,
        )
        return result, failure


def _wanted(calls: Sequence[Call]) -> Iterator[tuple[ImageSearch | TextSearch, int]]:
    for call in calls:
        if isinstance(call, TextSearch):
            yield from ((call, i) for i in range(len(call.queries)))
        elif isinstance(call, ImageSearch):
            yield from ((call, i) for i in range(len(call.image_ids) * max(1, len(call.boxes))))


def failure_text(failure: SearchError) -> str:
    """What the model reads of a failure: no hosts or ports, which would make tokens differ between runs."""
    return f"search refused: {failure}" if failure.refused else f"search failed ({failure.kind})"
