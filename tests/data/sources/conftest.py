import io
import json

import pytest
from PIL import Image


def encoded(color="red", size=(64, 48), format="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture
def red() -> bytes:
    return encoded("red")


@pytest.fixture
def pictures(tmp_path):
    """A folder `pics` with 0.png (red), 1.png (lime) and 2.png (blue), of 64 x 48 pixels, beside what is written."""
    (tmp_path / "pics").mkdir()
    for number, color in enumerate(("red", "lime", "blue")):
        (tmp_path / "pics" / f"{number}.png").write_bytes(encoded(color))
    return tmp_path


@pytest.fixture
def lines(tmp_path):
    """Writes rows as JSON lines and gives the file."""

    def write(*rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write
