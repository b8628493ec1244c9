"""The miniature world: real flags and the CIA World Factbook behind two searches."""

from hypereyes_jax.env.world.backend import WorldBackend
from hypereyes_jax.env.world.types import ATTRIBUTES, Country, Passage
from hypereyes_jax.env.world.world import World

__all__ = ["ATTRIBUTES", "Country", "Passage", "World", "WorldBackend"]
