"""The token record of one running rollout, from which its cache can be made again at any time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.processing import ContextChunk, Expanded, PatchedImage, expand, patchify
from hypereyes_jax.rollout.routes import RouteRecord


@dataclass(frozen=True)
class ImageRef:
    """An image of a sequence. Its patches can be made again, so they need not be kept."""

    key: bytes  # digest of the pixels: equal images are encoded once
    image: Image.Image
    tokens: int  # visual tokens


class Prompt(NamedTuple):
    """What a rollout begins with."""

    key: bytes  # of all of it
    positions: int  # of it in a cache
    head: np.ndarray  # int32, its tokens before the first image

    def shared(self, other: Prompt) -> int:
        """Positions from the first on that are the same in both: all, or those of their heads."""
        if self.key == other.key:
            return self.positions
        count = min(len(self.head), len(other.head), self.positions, other.positions)
        differ = np.flatnonzero(self.head[:count] != other.head[:count])
        return int(differ[0]) if len(differ) else count


@dataclass(frozen=True)
class Prepared:
    """A context chunk made ready for the device: placed from position 0, images patched."""

    expanded: Expanded
    images: tuple[ImageRef, ...]
    patches: tuple[PatchedImage, ...]
    key: bytes  # digest of tokens and images: equal prompts share a prefill

    def as_prompt(self) -> Prompt:
        """The prompt of a rollout that begins with this chunk."""
        visual = np.flatnonzero(self.expanded.visual_index_T >= 0)
        tokens = self.expanded.tokens_T
        return Prompt(self.key, len(tokens) - 1, tokens[: visual[0] if len(visual) else len(tokens)])


def digest(context: ContextChunk) -> bytes:
    """Names a context chunk by its tokens and pixels."""
    whole = hashlib.blake2b(np.ascontiguousarray(context.tokens, np.int32).tobytes(), digest_size=16)
    for image in context.images:
        whole.update(_image_digest(image))
    return whole.digest()


def prepare(context: ContextChunk, key: bytes, config: Qwen3VLConfig, min_pixels: int, max_pixels: int) -> Prepared:
    """Patches the images and expands the tokens of a context chunk whose `digest` is `key`.

    Raises ValueError if tokens and images don't match, or for an image that can't be patched.
    """
    patches = tuple(patchify(image, config.vision, min_pixels, max_pixels) for image in context.images)
    unit = config.vision.merge_unit
    images = tuple(
        ImageRef(_image_digest(image), image, len(patch.patches) // unit)
        for image, patch in zip(context.images, patches, strict=True)
    )
    return Prepared(expand(config, context.tokens, patches), images, patches, key)


def _image_digest(image: Image.Image) -> bytes:
    whole = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=16)
    whole.update(image.tobytes())
    return whole.digest()


@dataclass(eq=False)
class Sequence:
    """All tokens of a rollout so far, given and sampled, and how much of them a slot's cache holds.

    The last token is never in the cache (see `decode`): a sequence is ready to decode when filled == length - 1.
    """

    capacity: int
    seed_key: np.ndarray  # uint32 [2], raw threefry key of its random stream
    length: int = 0
    filled: int = 0
    slot: int | None = None
    sampled: int = 0  # tokens sampled so far: its place in the random stream
    next_position: int = 0
    images: list[ImageRef] = field(default_factory=list)
    patches: dict[bytes, PatchedImage] = field(default_factory=dict)  # of images not read yet, by their key
    tokens: np.ndarray = field(init=False)  # int32 [capacity]
    positions_3: np.ndarray = field(init=False)  # int32 [3, capacity]
    image_number: np.ndarray = field(init=False)  # int32 [capacity], into `images`; -1 = text
    image_token: np.ndarray = field(init=False)  # int32 [capacity], which of that image's visual tokens
    routes: RouteRecord = field(default_factory=RouteRecord)  # of its first tokens; empty where they are not recorded

    def __post_init__(self) -> None:
        self.tokens = np.zeros(self.capacity, np.int32)
        self.positions_3 = np.zeros((3, self.capacity), np.int32)
        self.image_number = np.full(self.capacity, -1, np.int32)
        self.image_token = np.zeros(self.capacity, np.int32)

    @property
    def held_slot(self) -> int:
        """The slot that it holds. Raises ValueError if it has none."""
        if self.slot is None:
            raise ValueError("the sequence has no slot")
        return self.slot

    @property
    def unread(self) -> int:
        """Tokens that `extend` must still put into the cache."""
        return self.length - 1 - self.filled

    @property
    def room(self) -> int:
        return self.capacity - self.length

    def append_context(self, prepared: Prepared) -> None:
        """Appends given tokens. Raises ValueError if they don't fit."""
        expanded = prepared.expanded
        count = len(expanded.tokens_T)
        if count > self.room:
            raise ValueError(f"{count} tokens do not fit the {self.room} left of {self.capacity}")
        here = slice(self.length, self.length + count)
        self.tokens[here] = expanded.tokens_T
        self.positions_3[:, here] = expanded.positions_3T + self.next_position
        sizes = np.array([ref.tokens for ref in prepared.images], np.int32)
        ends = np.cumsum(sizes)
        visual = expanded.visual_index_T
        number = np.searchsorted(ends, visual, side="right") if len(sizes) else np.zeros(count, int)
        starts = np.append(ends - sizes, 0)
        self.image_number[here] = np.where(visual >= 0, number + len(self.images), -1)
        self.image_token[here] = np.where(visual >= 0, visual - starts[number], 0)
        self.images.extend(prepared.images)
        self.patches.update((ref.key, patch) for ref, patch in zip(prepared.images, prepared.patches, strict=True))
        self.length += count
        self.next_position += expanded.next_position

    def append_sampled(self, tokens: Items[int] | np.ndarray) -> None:
        """Appends tokens that a decode call sampled; the cache now holds all of them but the last."""
        count = len(tokens)
        here = slice(self.length, self.length + count)
        self.tokens[here] = tokens
        self.positions_3[:, here] = np.arange(self.next_position, self.next_position + count)
        self.image_number[here] = -1
        self.length += count
        self.filled += count
        self.sampled += count
        self.next_position += count

    def drop_sampled(self, count: int) -> None:
        """Takes back the last `count` tokens, all sampled. Its random stream goes back, too."""
        self.length -= count
        self.sampled -= count
        self.next_position -= count
        self.filled = min(self.filled, self.length - 1)
        self.routes = self.routes.beginning(self.length - 1)


def seed_key(seed: int) -> np.ndarray:
    """uint32 [2]: the raw threefry key of a 64-bit seed."""
    return np.array([(seed >> 32) & 0xFFFFFFFF, seed & 0xFFFFFFFF], np.uint32)
