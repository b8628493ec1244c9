"""Unified grounded search: many regions and many queries of one turn, cut out and searched all at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from hypereyes_jax.env.actions import IMAGE_SEARCH, TEXT_SEARCH, Call, ImageSearch, Malformed, TextSearch
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.media.crops import UNITS_IN_WORDS, crop, to_fractions
from hypereyes_jax.env.types import FatalSearchError, Invocation, SearchBackend, SearchError, SearchHit


@dataclass(frozen=True)
class Found:
    """What the searches of one turn came to."""

    invocations: tuple[Invocation, ...]
    crops: Mapping[str, Image.Image]  # by id, those that could be cut
    notes: tuple[str, ...]  # what the model should know besides: malformed calls, searches left out
    skipped: int  # searches asked for beyond the width limit
    outage: str = ""  # why every search failed, where none was refused: the service is down


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

    async def search(self, calls: Sequence[Call]) -> Found:
        """Runs all searches of a turn together. Raises FatalSearchError when no search can work any more."""
        planned, crops, notes, skipped = self._plan(calls)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._search(invocation)) for invocation in planned]
        invocations = tuple(task.result()[0] for task in tasks)
        failures = [failure for _, failure in (task.result() for task in tasks) if failure is not None]
        for failure in failures:
            if isinstance(failure, FatalSearchError):
                raise failure
        worked = any(not invocation.error for invocation in invocations)
        down = bool(failures) and not worked and not any(failure.refused for failure in failures)
        return Found(invocations, crops, tuple(notes), skipped, outage=str(failures[0]) if down else "")

    def _plan(self, calls: Sequence[Call]) -> tuple[list[Invocation], dict[str, Image.Image], list[str], int]:
        config = self._config
        if config.one_call:
            calls = calls[:1]
        notes = [f"error: {call.why}" for call in calls if isinstance(call, Malformed)]
        wanted: list[tuple[ImageSearch | TextSearch, int]] = [
            (call, i) for call in calls if not isinstance(call, Malformed) for i in range(call.invocations)
        ]
        cap = 1 if config.serial else config.width_cap
        kept = wanted if cap is None else wanted[:cap]
        skipped = len(wanted) - len(kept)
        if skipped:
            notes.append(f"only the first {len(kept)} of {len(wanted)} searches were run")

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
        self.images.update(crops)
        return planned, crops, notes, skipped

    def _plan_image(self, call: ImageSearch, image_id: str, index: int) -> tuple[Invocation, Image.Image | None]:
        source = self.images.get(image_id)
        if source is None:
            known = list(self.images) if len(self.images) <= 12 else [*list(self.images)[:11], "..."]
            error = f"there is no image {image_id}; there are: {', '.join(known)}" if known else "there are no images"
            return Invocation(IMAGE_SEARCH, image_id, source=image_id, error=error), None
        if not call.boxes:
            return Invocation(IMAGE_SEARCH, image_id, source=image_id), None

        units, written, cut, error = self._config.box_units, call.boxes[index], None, ""
        box = None if written is None else to_fractions(written, source.size, units)
        if written is None:
            error = "crop failed: a box is four numbers [x1, y1, x2, y2]"
        elif box is None:
            error = f"crop failed: give boxes in {UNITS_IN_WORDS[units]}"
        else:
            cut = crop(source, box, self._config.crop_max_side)
            error = "" if cut is not None else "crop failed: the box is empty or outside the image"
        crop_id = self._name(self._next, cut)
        self._next += 1
        return Invocation(IMAGE_SEARCH, crop_id, source=image_id, box=box, crop_id=crop_id, error=error), cut

    async def _search(self, invocation: Invocation) -> tuple[Invocation, SearchError | None]:
        """One search. Anything but a SearchError is a defect of the backend and propagates."""
        if invocation.error:
            return invocation, None
        config, started = self._config, time.perf_counter()
        hits: list[SearchHit] = []
        failure: SearchError | None = None
        try:
            if invocation.tool == TEXT_SEARCH:
                found = await self._backend.text_search(invocation.query, config.text_request)
                hits = [hit for hit in found if hit.score >= config.text_min_score][: config.text_k]
            else:
                found = await self._backend.image_search(self.images[invocation.query], config.image_k)
                hits = sorted(found[: config.image_k], key=lambda hit: -hit.score)
        except SearchError as error:
            failure = error
        done = replace(
            invocation,
            hits=tuple(hits),
            error="" if failure is None else _told(failure),
            seconds=time.perf_counter() - started,
        )
        return done, failure


def _told(failure: SearchError) -> str:
    """What the model is told. Hosts and ports are no business of its own, and would make tokens differ between runs."""
    return f"search refused: {failure}" if failure.refused else f"search failed ({failure.kind})"
