"""A model with slots and a cache in pages: device programs, and the bookkeeping that feeds them. Knows token ids only.

An engine is used by one thread at a time (`prepare` excepted). Which sequence gets a slot, what is extended and when to
decode is the scheduler's business; here a call does what it is told, or raises.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.rollout import EngineConfig, SamplingConfig
from hypereyes_jax.models.qwen3_vl import Kernels
from hypereyes_jax.models.qwen3_vl.moe import UNKNOWN_EXPERT
from hypereyes_jax.processing import ContextChunk
from hypereyes_jax.rollout.cache import kv
from hypereyes_jax.rollout.cache.pages import CachedPositions, PageTable, pages_of_part
from hypereyes_jax.rollout.device import Device, DeviceCalls, Kept
from hypereyes_jax.rollout.image_pool import ImagePool
from hypereyes_jax.rollout.preparation import Preparation
from hypereyes_jax.rollout.programs.decode import MAX_STOP_IDS, PackedDecodeRows
from hypereyes_jax.rollout.programs.drafts import RecentTokens
from hypereyes_jax.rollout.programs.extend import ExtendRows
from hypereyes_jax.rollout.routes import RouteRecord
from hypereyes_jax.rollout.sequence import Prepared, Sequence, seed_key

_COPIES = 8  # pages that a call copies


@dataclass(frozen=True)
class DecodeRequest:
    """One row of a decode call."""

    sequence: Sequence
    sampling: SamplingConfig
    stop_ids: tuple[int, ...]
    budget: int  # tokens it may still sample


@dataclass(frozen=True)
class Sampled:
    """What a decode call added to one sequence."""

    tokens: np.ndarray  # int32 [n]
    logp_truncated: np.ndarray  # float32 [n]
    logp_full: np.ndarray  # float32 [n]
    stopped: bool  # the last token is a stop id


@dataclass(frozen=True)
class SavedCache:
    """An evicted sequence's cache, in host memory."""

    kept: Kept  # numpy, [kv heads, layers, pages, tokens of a page, ...]; on a mesh in pieces
    filled: int


class KeptPrefix(NamedTuple):
    """The beginning of a sequence, whose pages are held until `Engine.drop`."""

    cached: CachedPositions
    routes: RouteRecord  # of its tokens

    @property
    def part(self) -> int:
        """The part of the replica's devices that holds it."""
        return self.cached.part


@dataclass
class EngineCounts:
    """Work done since the engine was made."""

    extend_calls: int = 0
    extend_tokens: int = 0  # real ones
    extend_padded: int = 0  # computed, padding included
    decode_calls: int = 0
    decode_tokens: int = 0
    decode_row_steps: int = 0  # in which rows sampled them: with drafts, fewer than tokens
    shared_tokens: int = 0  # taken from what another sequence read


class Engine:
    """Slots on one replica: one device, or several that share the parameters' mesh.

    Args:
      config: the model.
      params: its weights; where they are sharded, programs run on their mesh.
      settings: sizes.
      lora: adapters, or None.
      version: number stamped on sampled tokens until `set_weights`.
      kernels: implementations; None = the best known for the platform.
      mesh: the one that `params` are sharded over, with a "tensor" axis that divides the heads; None = one device.
      shared_calls: where other processes hold a part of the mesh, makes its calls theirs, too.

    Raises ValueError for settings that do not fit each other.
    """

    def __init__(
        self,
        config: Qwen3VLConfig,
        params: Any,
        settings: EngineConfig | None = None,
        *,
        lora: Any = None,
        version: int = 0,
        kernels: Kernels | None = None,
        mesh: jax.sharding.Mesh | None = None,
        shared_calls: Callable[[Device], DeviceCalls] | None = None,
    ):
        self.config = config
        self.settings = settings = settings or EngineConfig()
        if settings.record_routes and not 0 < config.text.num_experts <= UNKNOWN_EXPERT:
            raise ValueError(
                f"record_routes needs 1 to {UNKNOWN_EXPERT} experts a layer, the model has {config.text.num_experts}"
            )
        self.version = version
        self.device = Device(config, params, settings, lora=lora, kernels=kernels, mesh=mesh)
        if self.device.spans_processes and shared_calls is None:
            raise ValueError("other processes hold a part of this replica: say by `shared_calls` how they follow")
        self._layout = self.device.layout
        self._calls: DeviceCalls = self.device if shared_calls is None else shared_calls(self.device)
        self.counts = EngineCounts()
        self.in_use = False  # by a scheduler; two would give out the same slots
        self.images = ImagePool(config, settings, self._calls)
        self._free = dict.fromkeys(range(settings.slots))  # in the order they became free
        self._recent = RecentTokens() if settings.draft_tokens else None
        self._pages = PageTable(self._layout, pages_of_part(settings, self._layout.parts), settings.page_tokens)
        self._prepare = Preparation(config, settings)

    @property
    def params(self) -> Any:
        """The weights that it samples from; None while it is suspended."""
        return self.device.params

    @property
    def kernels(self) -> Kernels:
        return self.device.kernels

    @property
    def free_slots(self) -> int:
        return len(self._free)

    def new_sequence(self, seed: int) -> Sequence:
        """An empty sequence without a slot. Its random stream depends on `seed` alone."""
        return Sequence(self.settings.context, seed_key(seed))

    def prepare(self, context: ContextChunk) -> Prepared:
        """Host work on a context chunk; may run in any thread at any time. Equal chunks of late are prepared once.

        Raises ValueError for images that are broken, or larger than this engine takes.
        """
        return self._prepare(context)

    def fits(self, sequence: Sequence, prepared: Prepared) -> bool:
        """Whether there is room for this chunk and one token to sample, within the limits on prompt and images."""
        tokens = len(prepared.expanded.tokens_T)
        if sequence.length == 0 and tokens > self.settings.max_prompt_tokens:
            return False
        images = len(sequence.images) + len(prepared.images)
        return tokens < sequence.room and images <= self.settings.max_images

    def best_part(self, preferred: int | None = None) -> int | None:
        """The part of the replica's devices for the next slot: this one if it has a free one, else the one with most.

        None if no slot is free.
        """
        if not self._free:
            return None
        if preferred is not None and any(self._layout.part(slot) == preferred for slot in self._free):
            return preferred
        return self._layout.part(self._layout.oldest(self._free))

    def acquire(self, sequence: Sequence, part: int | None = None) -> bool:
        """Gives a sequence a slot without pages; False if none is free.

        Args:
          part: of the replica's devices; None = `best_part`.
        """
        if sequence.slot is not None:
            raise ValueError("the sequence has a slot already")
        part = self.best_part() if part is None else part
        slot = next((slot for slot in self._free if self._layout.part(slot) == part), None)
        if slot is None:
            return False
        del self._free[slot]
        sequence.slot, sequence.filled = slot, 0
        return True

    def part(self, sequence: Sequence) -> int:
        """The part of the replica's devices that holds a sequence's slot."""
        return self._layout.part(sequence.held_slot)

    def free_pages(self, part: int) -> int:
        """Pages of a part that nobody holds."""
        return self._pages.free(part)

    def lacking_pages(self, sequence: Sequence, positions: int, kept: int = 0) -> int:
        """Pages that a sequence must be given before its cache can hold so many positions.

        Args:
          kept: positions of a beginning in the same part that it will `adopt`.
        """
        own = kept // self.settings.page_tokens if sequence.slot is None else len(self._pages.of(sequence.slot))
        return max(0, self._pages.count(positions) - own)

    def keep(self, sequence: Sequence, count: int) -> KeptPrefix:
        """Holds the first `count` positions of a sequence for others, until `drop`, whatever becomes of it."""
        cached = self._pages.first(sequence.held_slot, count)
        self._pages.hold(cached)
        return KeptPrefix(cached, sequence.routes.beginning(count))

    def hold(self, prefix: KeptPrefix) -> None:
        """Holds what is kept once more, until one `drop` more."""
        self._pages.hold(prefix.cached)

    def drop(self, prefix: KeptPrefix) -> None:
        """Ends a `keep`."""
        self._pages.drop(prefix.cached)

    def held_by_sequences(self, part: int, kept: Items[KeptPrefix]) -> set[int]:
        """Pages of a part that would not be free without what is kept."""
        return self._pages.held_by_sequences(part, [prefix.cached for prefix in kept])

    def adopt(self, sequence: Sequence, prefix: KeptPrefix, count: int) -> None:
        """Lets a sequence begin with the first `count` positions of what was kept, instead of what it has.

        The caller vouches that their records begin alike. Raises ValueError if the sequence has no slot, or too short a
        record.
        """
        if sequence.slot is None or sequence.length - 1 < count:
            raise ValueError(f"adopt() needs a slot, and a record of more than {count} tokens")
        self._copy(prefix.part, {sequence.slot: self._pages.begin_with(sequence.slot, prefix.cached, count)})
        self._begun_with(sequence, prefix.routes, count)

    def forget(self, sequence: Sequence) -> None:
        """Empties a sequence's cache; its slot and its record stay."""
        if sequence.slot is not None:
            self._pages.release(sequence.slot)
        sequence.filled = 0

    def release(self, sequence: Sequence) -> None:
        """Takes slot and pages back. What was in them can be made again from the record."""
        self._pages.release(sequence.held_slot)
        if sequence.held_slot < self.settings.slots:
            self._free[sequence.held_slot] = None
        sequence.slot, sequence.filled = None, 0

    def extend(self, sequences: Items[Sequence]) -> list[Sequence]:
        """One call that reads unread tokens of the first sequence, and of others that fit the same shape.

        Returns those that took part; a long input takes several calls. Raises ValueError for a sequence that has no
        slot or nothing to read.
        """
        for sequence in sequences:
            if sequence.slot is None or sequence.unread <= 0:
                raise ValueError("extend() needs sequences with a slot and unread tokens")
        settings, width = self.settings, self._width(sequences[0])
        alike = [sequence for sequence in sequences if self._width(sequence) == width]
        first = self._layout.together([sequence.held_slot for sequence in alike], settings.extend_rows[-1])
        batch = self.images.load([alike[index] for index in first], width)
        rows, places = self._layout.rows([sequence.held_slot for sequence in batch], settings.extend_rows)
        arrays = ExtendRows(
            tokens_RT=np.zeros((rows, width), np.int32),
            positions_3RT=np.zeros((3, rows, width), np.int32),
            visual_index_RT=np.full((rows, width), -1, np.int32),
            pages_RP=np.zeros((rows, settings.slot_pages), np.int32),
            offset_R=np.zeros(rows, np.int32),
            length_R=np.zeros(rows, np.int32),
        )
        for row, sequence in zip(places, batch, strict=True):
            count = min(width, sequence.unread)
            here = slice(sequence.filled, sequence.filled + count)
            arrays.tokens_RT[row, :count] = sequence.tokens[here]
            arrays.positions_3RT[:, row, :count] = sequence.positions_3[:, here]
            arrays.visual_index_RT[row, :count] = self.images.rows(sequence, here)
            pages = self._grown(sequence, sequence.filled + count)
            arrays.pages_RP[row, : len(pages)] = pages
            arrays.offset_R[row] = sequence.filled
            arrays.length_R[row] = count
        view = _bucket(settings.view_buckets, max(sequence.filled for sequence in batch))
        experts_LRTC = self._calls.extend(arrays, view)
        for row, sequence in zip(places, batch, strict=True):
            count = arrays.length_R[row]
            if experts_LRTC is not None:
                sequence.routes.note(sequence.filled, experts_LRTC[:, row, :count].swapaxes(0, 1))
            sequence.filled += int(count)
            if not sequence.unread:
                sequence.patches.clear()
        self.counts.extend_calls += 1
        self.counts.extend_tokens += int(arrays.length_R.sum())
        self.counts.extend_padded += rows * width
        return batch

    def decode(self, requests: Items[DecodeRequest], steps: int | None = None) -> list[Sampled]:
        """Samples for each request in one call, for up to `steps` (default and limit: settings.max_steps) steps.

        Tokens are appended to the sequences. Waits for the device. Raises ValueError for a sequence that is not ready,
        a budget that does not fit its slot, or more stop ids than the program has places for.
        """
        settings = self.settings
        rows, places = self._layout.rows([each.sequence.held_slot for each in requests], settings.decode_row_buckets)
        steps = min(steps or settings.max_steps, settings.max_steps)
        batch = PackedDecodeRows.padding(rows, steps, settings.slot_pages)
        longest = 0
        for row, request in zip(places, requests, strict=True):
            self._check_ready(request)
            sequence, sampling = request.sequence, request.sampling
            last = sequence.length - 1
            pages = self._grown(sequence, sequence.filled + min(request.budget, settings.tokens_a_call))
            batch.put(
                row,
                (
                    sequence.tokens[last],
                    sequence.filled,
                    sequence.positions_3[0, last],
                    request.budget,
                    sequence.sampled,
                    sampling.top_k,
                ),
                sequence.seed_key,
                request.stop_ids,
                pages,
            )
            batch.floats_RF[row] = sampling.temperature, sampling.top_p, sampling.min_p
            longest = max(longest, sequence.filled)
        view = _bucket(settings.view_buckets, longest)
        if self._recent is not None:
            records = [each.sequence.tokens[: each.sequence.length] for each in requests]
            batch = batch._replace(known_RN=self._recent.beside(records, places, rows, view + 1))
        decoded = self._calls.decode(batch, view)
        results = []
        for row, request in zip(places, requests, strict=True):
            count = int(decoded.count_R[row])
            tokens = decoded.tokens_KR[:count, row].copy()
            if decoded.experts_KLRC is not None:
                request.sequence.routes.note(request.sequence.filled, decoded.experts_KLRC[:count, :, row])
            sequence = request.sequence
            sequence.append_sampled(tokens)
            if self._recent is not None:
                self._recent.note(sequence.tokens[: sequence.length], count)
            truncated, full = decoded.logp_2KR[:, :count, row].copy()
            results.append(Sampled(tokens, truncated, full, bool(decoded.stopped_R[row])))
        self.counts.decode_calls += 1
        self.counts.decode_tokens += int(decoded.count_R[places].sum())
        self.counts.decode_row_steps += int(decoded.steps_R[places].sum())
        return results

    def share(self, source: Sequence, targets: Items[Sequence], count: int) -> None:
        """Gives the targets the first `count` positions of the source's cache; their records must begin alike.

        Raises ValueError if a slot is missing or the source has not read so far.
        """
        if source.slot is None or source.filled < count or any(target.slot is None for target in targets):
            raise ValueError(f"share() needs slots, and {count} positions in the source's cache")
        cached = self._pages.first(source.slot, count)
        copies = {target.held_slot: self._pages.begin_with(target.held_slot, cached, count) for target in targets}
        self._copy(cached.part, copies)
        for target in targets:
            self._begun_with(target, source.routes, count)

    def _begun_with(self, sequence: Sequence, routes: RouteRecord, count: int) -> None:
        sequence.filled = count
        if sequence.routes.length < count:
            sequence.routes = routes.beginning(count)
        if not sequence.unread:
            sequence.patches.clear()
        self.counts.shared_tokens += count

    def _copy(self, part: int, copies_of: dict[int, list[tuple[int, int]]]) -> None:
        """Copies pages of a part to pages of slots, in calls of one size for each part that they are in."""
        by_part: dict[int, list[tuple[int, int]]] = {}
        for slot, copies in copies_of.items():
            by_part.setdefault(self._layout.part(slot), []).extend(copies)
        for target_part, copies in by_part.items():
            for start in range(0, len(copies), _COPIES):
                some = copies[start : start + _COPIES]
                pairs_2N = np.array(some + some[-1:] * (_COPIES - len(some)), np.int32).T
                self._calls.copy(part, pairs_2N[0], target_part, pairs_2N[1])

    def cached(self, sequence: Sequence) -> CachedPositions:
        """Where a sequence's cache is, for a `save` before anything else is written."""
        return self._pages.first(sequence.held_slot, sequence.filled)

    def save(self, cached: CachedPositions) -> SavedCache:
        """A copy on the host of what pages hold, exactly as it is stored. Waits for the device."""
        return SavedCache(self._calls.read(cached.part, self._padded(cached.pages)), cached.positions)

    def saved_bytes(self, filled: int) -> int:
        """Size of what `save` returns."""
        return kv.bytes_per_token(self.config, self.settings.kv) * _bucket(self.settings.view_buckets, filled)

    def restore(self, sequence: Sequence, saved: SavedCache) -> None:
        """Puts back what `save` gave, into whichever slot the sequence has now."""
        pages = self._grown(sequence, saved.filled)
        self._calls.write(saved.kept, self.part(sequence), self._padded(tuple(pages)))
        sequence.filled = saved.filled

    def _padded(self, pages: tuple[int, ...]) -> np.ndarray:
        """Pages as a call takes them, for which there are programs of a few sizes: the last one is repeated."""
        page_tokens = self.settings.page_tokens
        size = _bucket(self.settings.view_buckets, len(pages) * page_tokens) // page_tokens
        return np.array(pages + pages[-1:] * (size - len(pages)), np.int32)

    def _grown(self, sequence: Sequence, positions: int) -> list[int]:
        """The pages of a sequence, which have room for so many positions now."""
        slot = sequence.held_slot
        self._pages.grow(slot, positions)
        return self._pages.of(slot)

    def set_weights(self, params: Any, lora: Any, version: int) -> None:
        """Swaps the weights between calls. Encoded images are forgotten; slots keep what the old weights wrote.

        Where other processes hold a part of the replica, each sets the weights of its own part, between plays.

        Raises ValueError if the new weights differ in structure, shape or dtype (they would compile new programs), or
        for a replica over several processes that is in use: the others would go on with the old ones.
        """
        if self.in_use and self.device.spans_processes:
            raise ValueError("a replica over several processes gets new weights between plays, not while it is in use")
        self.device.set_weights(params, lora)
        self.version = version
        self.images.clear()

    def set_adapters(self, lora: Any, version: int) -> None:
        """Sets the adapters alone, as `set_weights` does: the weights beside them stay."""
        if self.in_use and self.device.spans_processes:
            raise ValueError("a replica over several processes gets new weights between plays, not while it is in use")
        self.device.set_adapters(lora)
        self.version = version
        self.images.clear()

    def suspend(self, weights: bool = True) -> None:
        """Gives back the memory of weights (unless told not to), slots and encoded images, until they are set again.

        Raises ValueError if a sequence holds a slot: its cache would be lost.
        """
        if len(self._free) != self.settings.slots:
            raise ValueError(f"{self.settings.slots - len(self._free)} slots are in use; release them first")
        self.device.suspend(weights)
        self.images.clear()

    def greedy(self, tokens: np.ndarray, steps: int) -> Sampled:
        """Continues given text tokens greedily in a spare slot, through the same programs as everything else."""
        if len(tokens) + steps > self.settings.context:
            raise ValueError(f"{len(tokens)} + {steps} tokens do not fit context={self.settings.context}")
        sequence = self.new_sequence(0)
        sequence.append_context(self.prepare(ContextChunk(np.asarray(tokens, np.int32))))
        sequence.slot = self.settings.slots
        while sequence.unread:
            self.extend([sequence])
        parts = []
        while steps:
            sampling = SamplingConfig(temperature=0, top_p=1)
            parts += self.decode([DecodeRequest(sequence, sampling, (), steps)])
            steps -= len(parts[-1].tokens)
        self.forget(sequence)
        return join(parts)

    def block_until_ready(self) -> None:
        """Waits until the device has done all it was told."""
        self.device.block_until_ready()

    def _check_ready(self, request: DecodeRequest) -> None:
        sequence = request.sequence
        if sequence.slot is None or sequence.length == 0 or sequence.unread:
            raise ValueError("decode() needs sequences with a slot and nothing unread")
        if not 0 < request.budget <= sequence.room:
            raise ValueError(f"budget={request.budget} must be within 1 .. {sequence.room}, the room in the slot")
        if len(request.stop_ids) > MAX_STOP_IDS:
            raise ValueError(f"{len(request.stop_ids)} stop ids, at most {MAX_STOP_IDS} are possible")

    def _width(self, sequence: Sequence) -> int:
        widths = self.settings.extend_tokens
        return _bucket(widths, min(sequence.unread, widths[-1]))


def join(parts: Items[Sampled]) -> Sampled:
    """What several decode calls added to one sequence, as one."""
    return Sampled(
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.logp_truncated for part in parts]),
        np.concatenate([part.logp_full for part in parts]),
        parts[-1].stopped,
    )


def _bucket(sizes: tuple[int, ...], needed: int) -> int:
    for size in sizes:
        if size >= needed:
            return size
    raise ValueError(f"{needed} exceeds the largest bucket of {sizes}")
