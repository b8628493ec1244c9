"""Search services. Each is a SearchBackend; wrap it in ResilientBackend and RecordedBackend as needed."""

from hypereyes_jax.env.search.backends.image_host import ImageHost, LocalImageHost, S3Config, S3ImageHost
from hypereyes_jax.env.search.backends.retriever import RetrieverBackend
from hypereyes_jax.env.search.backends.serpapi import SerpApiBackend, SerpApiConfig
from hypereyes_jax.env.search.backends.world_http import HttpWorldBackend

__all__ = [
    "HttpWorldBackend",
    "ImageHost",
    "LocalImageHost",
    "RetrieverBackend",
    "S3Config",
    "S3ImageHost",
    "SerpApiBackend",
    "SerpApiConfig",
]
