"""Conversations with pictures in lock step, by Hugging Face's model: the baselines of `rollout.py`.

Two loops, same weights, all conversations in one batch, left-padded:

- `generated`: `generate`, which is given the whole conversation at each turn and prefills it again;
- `kept`: a loop of our own around the model's forward pass, which keeps the keys and values between turns and reads
  only what is new, as a careful user would write it. Positions are ours, exact for pictures. It leaves out what
  `generate` does beside (stopping, processors, checks of its arguments), and the log-probs that training needs.

Each samples a fixed number of tokens a turn at the same temperature and top-p.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.models.qwen3_vl import save_hf
from hypereyes_jax.processing import ChatFormat, ContextChunk, Expanded, PatchedImage, expand, patchify


class HfConversations:
    """The model in torch, float32.

    Args:
      directory: where its weights are written.
      sampling: `max_new_tokens` are sampled in each turn, no fewer.
      pixels: bounds of an image's area.
    """

    def __init__(
        self,
        directory: Path,
        config: Qwen3VLConfig,
        params: Any,
        chat: ChatFormat,
        sampling: SamplingConfig,
        pixels: tuple[int, int],
    ):
        import torch
        from transformers import Qwen3VLForConditionalGeneration

        save_hf(directory, config, params)
        self._model = Qwen3VLForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
        self._config, self._chat, self._sampling, self._pixels = config, chat, sampling, pixels
        self._pictures = [config.image_token_id, config.video_token_id]

    def generated(self, episodes: Sequence[Episode], turns: int) -> float:
        """Sampled tokens a second, each turn prefilled from the start."""
        tokens: list[list[int]] = [[] for _ in episodes]
        images: list[list[Image.Image]] = [[] for _ in episodes]

        def turn(contexts: Sequence[ContextChunk]) -> None:
            for own_tokens, own_images, context in zip(tokens, images, contexts, strict=True):
                own_tokens += context.tokens.tolist()
                own_images += context.images
            for own_tokens, sampled in zip(tokens, self._generate(tokens, images), strict=True):
                own_tokens += sampled

        return self._rate(episodes, turns, turn)

    def kept(self, episodes: Sequence[Episode], turns: int) -> float:
        """Sampled tokens a second, keys and values kept between turns."""
        from transformers import DynamicCache

        cache, count = DynamicCache(config=self._model.config.get_text_config()), len(episodes)
        seen = np.zeros((count, 0), np.int64)  # which positions of the cache hold a token
        following = np.zeros(count, np.int64)  # the next position of each conversation
        last: list[list[int]] = [[] for _ in episodes]  # the token that was sampled and not read

        def turn(contexts: Sequence[ContextChunk]) -> None:
            nonlocal seen
            rows, patched = [], []
            for row, context in enumerate(contexts):
                own = [patchify(image, self._config.vision, *self._pixels) for image in context.images]
                tokens = np.concatenate([np.array(last[row], np.int32), context.tokens])
                rows.append(expand(self._config, tokens, own, start=int(following[row])))
                patched += own
            seen = self._converse(cache, seen, following, last, rows, patched)

        return self._rate(episodes, turns, turn)

    def _rate(self, episodes: Sequence[Episode], turns: int, turn: Any) -> float:
        import torch

        async def play() -> None:
            contexts = [self._chat.prompt(episode.system, episode.prompt()) for episode in episodes]
            for _ in range(turns):
                turn(contexts)
                observations = await asyncio.gather(*(episode.step("") for episode in episodes))
                contexts = [self._chat.observation(parts) for parts in observations if parts is not None]

        with torch.inference_mode():
            started = time.perf_counter()
            asyncio.run(play())
        return len(episodes) * turns * self._sampling.max_new_tokens / (time.perf_counter() - started)

    def _generate(self, tokens: list[list[int]], images: list[list[Image.Image]]) -> list[list[int]]:
        import torch

        patched = [[patchify(image, self._config.vision, *self._pixels) for image in own] for own in images]
        rows = [expand(self._config, ids, own) for ids, own in zip(tokens, patched, strict=True)]
        ids, mask, _ = _left_padded(rows)
        sampling = self._sampling
        out = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            mm_token_type_ids=(ids == self._config.image_token_id).long(),
            **_pixels([patch for own in patched for patch in own]),
            max_new_tokens=sampling.max_new_tokens,
            min_new_tokens=sampling.max_new_tokens,
            do_sample=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            pad_token_id=0,
        )
        # an image token that was sampled would have no image at the next turn
        sampled = out[:, ids.shape[1] :].clone()
        sampled[torch.isin(sampled, torch.tensor(self._pictures))] = 0
        return sampled.tolist()

    def _converse(
        self,
        cache: Any,
        seen: np.ndarray,
        following: np.ndarray,
        last: list[list[int]],
        rows: Sequence[Expanded],
        patched: Sequence[PatchedImage],
    ) -> np.ndarray:
        """One turn of all conversations on their cache: what `seen` is after it. `following` and `last` are updated."""
        import torch

        ids, mask, positions = _left_padded(rows)
        mask = torch.cat([torch.from_numpy(seen), mask], 1)
        out = self._model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1,
            mm_token_type_ids=(ids == self._config.image_token_id).long(), **_pixels(patched),
        )  # fmt: skip
        place = torch.tensor([row.next_position for row in rows])
        for step in range(self._sampling.max_new_tokens):
            token = self._draw(out.logits[:, -1])
            if step + 1 < self._sampling.max_new_tokens:
                mask = torch.cat([mask, torch.ones_like(token)], 1)
                position = (place + step)[None, :, None].expand(3, -1, 1)
                out = self._model(input_ids=token, attention_mask=mask, position_ids=position, past_key_values=cache)
        last[:] = token.tolist()
        following[:] = place.numpy() + self._sampling.max_new_tokens - 1  # where the last token goes
        return mask.numpy()

    def _draw(self, logits: Any) -> Any:
        """int64 [B, 1]: one token a conversation, no picture."""
        import torch

        logits[:, self._pictures] = -torch.inf
        ordered, order = (logits / self._sampling.temperature).softmax(-1).sort(descending=True)
        ordered[ordered.cumsum(-1) - ordered > self._sampling.top_p] = 0
        return order.gather(-1, torch.multinomial(ordered, 1))


def _left_padded(rows: Sequence[Expanded]) -> tuple[Any, Any, Any]:
    """(ids [B, T], mask [B, T], positions [3, B, T]), int64."""
    import torch

    longest = max(len(row.tokens_T) for row in rows)
    ids, mask = np.zeros((len(rows), longest), np.int64), np.zeros((len(rows), longest), np.int64)
    positions = np.zeros((3, len(rows), longest), np.int64)
    for number, row in enumerate(rows):
        here = slice(longest - len(row.tokens_T), longest)
        ids[number, here], mask[number, here], positions[:, number, here] = row.tokens_T, 1, row.positions_3T
    return torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(positions)


def _pixels(patched: Sequence[PatchedImage]) -> dict[str, Any]:
    """What the vision tower is given."""
    import torch

    if not patched:
        return {}
    values = torch.from_numpy(np.concatenate([patch.patches for patch in patched]))
    return {"pixel_values": values, "image_grid_thw": torch.tensor([patch.grid_thw for patch in patched])}
