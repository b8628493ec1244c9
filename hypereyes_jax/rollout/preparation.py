"""Host work on context chunks before a slot reads them; may run in any thread, beside the device's."""

from __future__ import annotations

import threading
from collections import OrderedDict

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.rollout import EngineConfig
from hypereyes_jax.processing import ContextChunk
from hypereyes_jax.rollout.sequence import Prepared, digest, prepare

_LATEST = 16  # the samples of a group ask for the same prompt at about the same time


class Preparation:
    """Patches images and places tokens as an engine of these settings takes them."""

    def __init__(self, config: Qwen3VLConfig, settings: EngineConfig):
        self._config, self._settings = config, settings
        self._latest: OrderedDict[bytes, Prepared] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, context: ContextChunk) -> Prepared:
        """The chunk made ready. Equal chunks of late are prepared once.

        Raises ValueError for images that are broken, or larger than the engine takes.
        """
        settings = self._settings
        key = digest(context)
        with self._lock:
            if key in self._latest:
                self._latest.move_to_end(key)
                return self._latest[key]
        prepared = prepare(context, key, self._config, settings.min_pixels, settings.max_pixels)
        longest = max(patches for _, patches in settings.image_shapes)
        for ref, patch in zip(prepared.images, prepared.patches, strict=True):
            if len(patch.patches) > longest or ref.tokens > settings.visual_tokens:
                raise ValueError(
                    f"an image of {len(patch.patches)} patches ({ref.tokens} visual tokens) exceeds the engine's "
                    f"image_shapes={settings.image_shapes} or visual_tokens={settings.visual_tokens}; raise them or "
                    "lower max_pixels"
                )
        with self._lock:
            self._latest[key] = prepared
            while len(self._latest) > _LATEST:
                self._latest.popitem(last=False)
        return prepared
