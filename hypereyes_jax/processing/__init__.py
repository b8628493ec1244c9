"""Images to patches and index arrays; chat to tokens and back. Knows nothing of weights."""

from hypereyes_jax.configs.images import MAX_PIXELS, MIN_PIXELS
from hypereyes_jax.processing.chat import ChatFormat
from hypereyes_jax.processing.expand import Expanded, expand
from hypereyes_jax.processing.images import PatchedImage, patchify, patchify_bytes, smart_resize
from hypereyes_jax.processing.pack import pack_inputs
from hypereyes_jax.processing.types import Chunk, ContextChunk, ModelInputs, SampledChunk, VisionInputs
from hypereyes_jax.processing.vision import bucket, vision_inputs

__all__ = [
    "MAX_PIXELS",
    "MIN_PIXELS",
    "ChatFormat",
    "Chunk",
    "ContextChunk",
    "Expanded",
    "ModelInputs",
    "PatchedImage",
    "SampledChunk",
    "VisionInputs",
    "bucket",
    "expand",
    "pack_inputs",
    "patchify",
    "patchify_bytes",
    "smart_resize",
    "vision_inputs",
]
