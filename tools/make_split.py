"""Draws the held-out countries and writes hypereyes_jax/env/world/split.json.

    python tools/make_split.py

Every region gives its share. Countries that others' facts name (former rulers), or whose name is part of another's
("Guinea"), are never held out: training text would mention them.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

from hypereyes_jax.env.world import Country, World

OUT = Path(__file__).resolve().parent.parent / "hypereyes_jax" / "env" / "world" / "split.json"
SEED = 7
SHARE = 0.2


def can_be_held_out(country: Country, world: World) -> bool:
    if not country.flag:
        return False
    for other in world.countries:
        texts = (other.independence_from, other.currency, other.capital, *other.names, *other.languages)
        for name in country.names:
            if other.key != country.key and any(re.search(rf"\b{re.escape(name)}\b", text) for text in texts):
                return False
    return True


def draw(world: World) -> list[str]:
    rng = random.Random(SEED)
    held: list[str] = []
    for region in sorted({country.region for country in world.countries}):
        members = [country for country in world.countries if country.region == region]
        free = [country.key for country in members if can_be_held_out(country, world)]
        held += rng.sample(free, min(len(free), round(SHARE * len(members))))
    return sorted(held)


def main() -> None:
    held = draw(World.load())
    OUT.write_text(json.dumps({"seed": SEED, "share": SHARE, "held_out": held}) + "\n", encoding="utf-8")
    print(f"{len(held)} countries held out, in {OUT}")


if __name__ == "__main__":
    main()
