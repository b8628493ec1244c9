"""Ahead-of-time compiles for hardware that is not there: what fits, what bounds it, how long a step takes."""
