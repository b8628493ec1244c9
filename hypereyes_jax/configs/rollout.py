"""Sizes and rules of the rollout engine, as settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from hypereyes_jax.configs.images import MAX_PIXELS, MIN_PIXELS
from hypereyes_jax.configs.numbers import check_numbers
from hypereyes_jax.errors import SettingError

KVKind = Literal["float32", "bfloat16", "int8"]
MAX_DRAFT_TOKENS = 7
WeightsKind = Literal["given", "int8"]


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is drawn, and how many a turn may have."""

    temperature: float = 0.8  # the paper's rollouts; 0 = greedy
    top_p: float = 0.95
    top_k: int = 0  # 0 = off
    min_p: float = 0.0
    max_new_tokens: int = 1524  # a turn

    def __post_init__(self) -> None:
        check_numbers(self)


@dataclass(frozen=True)
class EngineConfig:
    """Sizes of an engine. Each combination of bucket sizes that is met compiles one program, when it is first met."""

    slots: int = 32  # sequences that are worked on at once
    context: int = 1024  # tokens of the longest sequence, visual tokens counted one by one
    # Tokens that the caches of all sequences hold together; 0 = as many as all slots can have. With fewer, more slots
    # fit a device, and a sequence for which there is no room waits, in host memory or to be read again.
    cache_tokens: int = 0
    page_tokens: int = 64  # of a page, the unit in which sequences take cache: a power of two, at least 16
    kv: KVKind = "float32"  # how keys and values are kept
    weights: WeightsKind = "given"  # how the decoder's linear maps are kept
    max_steps: int = 16  # of a decode call; each samples a token in each row, or with drafts a few
    # Guesses that a step verifies behind a row's last token, at most 7 (prompt lookup). Tokens stay the same; it is
    # faster where a step takes as long as reading the weights does.
    draft_tokens: int = 0
    decode_rows: tuple[int, ...] = ()  # rows of a decode call; () = a quarter of the slots, and all
    extend_rows: tuple[int, ...] = (1, 4)  # rows of an extend call
    extend_tokens: tuple[int, ...] = (64, 256)  # tokens a row; longer inputs take several calls
    view_lengths: tuple[int, ...] = ()  # positions attended to; () = a quarter of `context`, a half, and all
    image_shapes: tuple[tuple[int, int], ...] = ((4, 64), (2, 256), (1, 1024), (1, 4800))  # (rows, patches a row)
    images_apart: bool = False  # each image is encoded in a call of its own
    # A prompt begins with what another one left in a slot only where all of it is the same, not just how it begins.
    whole_prompts: bool = False
    visual_tokens: int = 4096  # of encoded images kept for later use
    # Host memory, GiB, for caches of evicted sequences, of all engines of a process that are run together; beyond it
    # they are read again. None = a quarter of what is free when they begin, shared with the host's other processes.
    offload_gib: float | None = None
    min_pixels: int = MIN_PIXELS  # an image is resized to an area between these
    max_pixels: int = MAX_PIXELS
    max_prompt_tokens: int = 15_000  # the paper's limit
    max_images: int = 50  # of a sequence; the paper's limit
    record_routes: bool = False  # rollouts of a mixture of experts tell which experts their tokens were sent to

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.draft_tokens > MAX_DRAFT_TOKENS:
            raise SettingError(f"draft_tokens={self.draft_tokens} is more than {MAX_DRAFT_TOKENS}")
        if self.page_tokens < 16 or self.page_tokens & (self.page_tokens - 1):
            raise SettingError(f"page_tokens={self.page_tokens} is not a power of two of at least 16")
        if 0 < self.cache_tokens < (least := self.slot_pages * self.page_tokens):
            raise SettingError(
                f"cache_tokens={self.cache_tokens} does not hold one sequence of context={self.context}: choose "
                f"{least} or more, or 0"
            )
        if any(rows > self.slots for rows in self.decode_rows) or any(n > self.context for n in self.view_lengths):
            raise SettingError(
                f"decode_rows may not exceed slots={self.slots}, nor view_lengths context={self.context}"
            )

    def exact(self) -> EngineConfig:
        """The same sizes with one shape for each program and one image a call, at some cost in speed.

        Timing then changes no shape, not where the reading of a prompt begins, and not where a decode call ends (as
        drafts would, which are copied from other rollouts, too). With a slot for every rollout and `cache_tokens` of 0,
        log-probs, and the weights trained on them, are the same to the bit whenever a run is repeated on a CPU, idle or
        busy. Without, caches of evicted rollouts may be read again in other pieces.
        """
        return replace(
            self,
            decode_rows=(self.slots,),
            extend_rows=self.extend_rows[-1:],
            extend_tokens=self.extend_tokens[-1:],
            view_lengths=(self.context,),
            images_apart=True,
            whole_prompts=True,
            draft_tokens=0,
        )

    @property
    def decode_row_buckets(self) -> tuple[int, ...]:
        return tuple(sorted({*(self.decode_rows or (-(-self.slots // 4),)), self.slots}))

    @property
    def tokens_a_call(self) -> int:
        """Tokens that a decode call may add to a sequence."""
        return self.max_steps * (self.draft_tokens + 1)

    @property
    def slot_pages(self) -> int:
        """Pages of the longest sequence."""
        return -(-self.context // self.page_tokens)

    @property
    def view_buckets(self) -> tuple[int, ...]:
        """Positions that a call may attend to, in whole pages."""
        lengths = {*(self.view_lengths or (self.context // 4, self.context // 2)), self.context} - {0}
        return tuple(sorted({-(-length // self.page_tokens) * self.page_tokens for length in lengths}))


@dataclass(frozen=True)
class SchedulerConfig:
    """How the scheduler shares an engine among rollouts."""

    extends_per_step: int = 4  # extend calls before the next decode call, so that neither waits long for the other
    share_prompts: bool = True  # sequences with equal prompts share one prefill
    evict_after: float = 0.0  # seconds a session stays parked before another may take its slot, while some run
    engines: int = 1  # of this process, which share the host memory for evicted caches: `EngineConfig.offload_gib`
    processes: int = 1  # of this run on this host, which share what is free there
    max_staleness: int | None = None  # versions a sequence's first token may lie behind; older ones end; None = any
