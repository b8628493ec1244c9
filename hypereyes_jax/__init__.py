"""HyperEyes in JAX: a multimodal search agent that searches wider instead of longer (arXiv 2605.07177)."""

__version__ = "0.1.0"
