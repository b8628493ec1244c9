"""Trajectories that were recorded elsewhere (`hypereyes ask`, evaluations, rollouts of RL) as demonstrations."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from hypereyes_jax.data.demonstration import Example
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.media.crops import crop
from hypereyes_jax.env.types import EpisodeResult, Part, TurnRecord


def example_of(result: EpisodeResult, system: str, rules: EpisodeConfig) -> Example:
    """The conversation of a finished episode, rebuilt from its record.

    Crops are cut anew from the record's images by their boxes; text is as it was shown.

    Args:
      system: the system prompt that the demonstration shall carry.
      rules: of the episode: whether crops were shown, how many images, and their largest side.

    Raises:
      ValueError: the record lacks an image that a crop was cut from.
    """
    question = result.question
    registry: dict[str, Image.Image] = {f"img_{number}": image for number, image in enumerate(question.images)}
    observations: list[tuple[Part, ...]] = [question.parts]
    count = len(question.images)
    for turn in result.turns[:-1]:
        crops = _crops(turn, registry, rules)
        room = max(0, rules.max_images - count) if rules.show_crops else 0
        count += len(crops[:room])
        observations.append((*crops[:room], turn.observation))
    return Example(question.id, system, tuple(observations), tuple(turn.text for turn in result.turns))


def _crops(turn: TurnRecord, registry: dict[str, Image.Image], rules: EpisodeConfig) -> Sequence[Image.Image]:
    """The crops of a turn, in the order they were made; they join the registry."""
    crops = []
    for call in turn.invocations:
        if call.box is None or not call.crop_id or call.crop_id in registry:
            continue
        if call.source not in registry:
            raise ValueError(f"the record lacks {call.source}, which {call.crop_id} was cut from")
        region = crop(registry[call.source], call.box, rules.crop_max_side)
        if region is not None:
            registry[call.crop_id] = region
            crops.append(region)
    return crops
