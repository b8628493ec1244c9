"""The paper from nothing to its table 2 as ten commands, and the same ten at a size that fits two cores, offline."""
