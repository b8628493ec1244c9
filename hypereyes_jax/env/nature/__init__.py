"""A second offline domain, which no training of the shipped models has touched: animals, plants and food."""

from hypereyes_jax.env.nature.nature import ATTRIBUTES, Entity, Nature

__all__ = ["ATTRIBUTES", "Entity", "Nature"]
