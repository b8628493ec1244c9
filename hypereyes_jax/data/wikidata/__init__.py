"""A graph of facts from Wikidata, and questions of several constraints that one entity meets."""

from __future__ import annotations

from hypereyes_jax.data.wikidata.dump import DumpConfig, read_dump
from hypereyes_jax.data.wikidata.graph import Graph
from hypereyes_jax.data.wikidata.sparql import read_sparql, refuse_other_files

__all__ = ["DumpConfig", "Graph", "read_dump", "read_sparql", "refuse_other_files"]
