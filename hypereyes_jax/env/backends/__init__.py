"""Search services. Each is a SearchBackend; wrap it in ResilientBackend and RecordedBackend as needed."""

from hypereyes_jax.env.backends.retriever import RetrieverBackend
from hypereyes_jax.env.backends.world_http import HttpWorldBackend

__all__ = ["HttpWorldBackend", "RetrieverBackend"]
