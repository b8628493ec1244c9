"""Makes hypereyes_jax/env/world/flags/ from the pinned npm tarball of svg-country-flags.

    npm pack svg-country-flags@1.2.10
    python tools/make_flags.py svg-country-flags-1.2.10.tgz

The result is the same, byte for byte, for the same Pillow version. Transparent flags (Nepal's) are laid on white.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import tarfile
from pathlib import Path

from PIL import Image

from hypereyes_jax.env.world.members import MEMBERS, NO_FLAG

SHA256 = "2576650b4568c8ee1a2a6ddaa45c0246be16735f229bb40b1a0a6f40424e5213"
OUT = Path(__file__).resolve().parent.parent / "hypereyes_jax" / "env" / "world" / "flags"
WIDTH = 160  # px; a flag of a mosaic is at most about 120 px wide
COLOURS = 64  # palette size; coats of arms need it, most flags use fewer


def compact(png: bytes) -> bytes:
    """A palette PNG of at most WIDTH px, transparency laid on white."""
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image)
    height = round(image.height * WIDTH / image.width)
    small = ground.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.quantize(COLOURS, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tarball", type=Path)
    tarball: Path = parser.parse_args().tarball
    data = tarball.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        sys.exit(f"{tarball}: sha256 is {found}, expected {SHA256}; fetch it with `npm pack svg-country-flags@1.2.10`")
    OUT.mkdir(exist_ok=True)
    total = 0
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for key in sorted(set(MEMBERS) - set(NO_FLAG)):
            member = archive.extractfile(f"package/png250px/{key}.png")
            if member is None:
                sys.exit(f"{tarball}: no flag for {key!r}")
            png = compact(member.read())
            (OUT / f"{key}.png").write_bytes(png)
            total += len(png)
    print(f"{len(MEMBERS) - len(NO_FLAG)} flags, {total / 1e6:.2f} MB, in {OUT}")


if __name__ == "__main__":
    main()
