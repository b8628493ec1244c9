"""Any source written out as shards of one's own, pictures inside: parquet with small row groups, or ArrayRecord."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from hypereyes_jax.data.files import json_line
from hypereyes_jax.data.sources import Examples, Questions
from hypereyes_jax.data.sources.example_rows import ExampleRow
from hypereyes_jax.data.sources.media import Clip, Media, Picture
from hypereyes_jax.data.sources.question_rows import QuestionRow
from hypereyes_jax.data.sources.types import BadRow, RowError, SourceReport
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import draft_of, writing

Format = Literal["parquet", "array_record"]
GROUP_BYTES = 8 << 20  # of a row group, at most: a row is read with its group
GROUP_ROWS = 64
SHARD_BYTES = 256 << 20


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote."""

    rows: int
    shards: tuple[Path, ...]
    report: SourceReport  # of the source, with what was left out


_UNFINISHED = ".unfinished"  # stands in the folder until all shards do


def convert(
    source: Questions | Examples, out: Path, format: Format = "parquet", shard_bytes: int = SHARD_BYTES
) -> Converted:
    """Writes a source's rows to `out/part-NNNNN.FORMAT`, one row at a time. Pictures keep their bytes.

    A shard has its name only once it is whole, and what was killed, or failed, is made anew by the same call. Rows
    whose pictures can't be opened are refused or counted, as the source's options say.

    Raises UserError if `out` holds something, or can't be written.
    """
    unfinished = out / _UNFINISHED
    if unfinished.exists():  # a conversion that was killed, or failed: it is made anew
        for path in out.glob("*part-*"):
            path.unlink()
    elif out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty. Give a new folder.")
    shards: list[Path] = []
    rows = 0
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        unfinished.touch()
        stream = _rows(source)
        row = next(stream, None)
        while row is not None:
            path = out / f"part-{len(shards):05d}.{format}"
            draft = draft_of(path)
            try:
                writer: _Writer = _ParquetShard(draft) if format == "parquet" else _RecordShard(draft, path)
                while row is not None and writer.bytes < shard_bytes:
                    writer.write(row)
                    rows += 1
                    row = next(stream, None)
                writer.close()
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)
            shards.append(path)
    if not rows:
        raise UserError(f"no row can be converted. {source.report.bad_in_words()}")
    unfinished.unlink()
    return Converted(rows, tuple(shards), source.report)


def _rows(source: Questions | Examples) -> Iterator[dict[str, Any]]:
    for index in range(len(source)):
        try:
            row = source.row(index)
            media = source.media(index)
            try:
                yield _question(row, media) if isinstance(row, QuestionRow) else _example(row, media)
            except BadRow as error:
                raise source.error(index, error) from None
        except RowError as error:
            if source.options.bad_rows == "refuse":
                raise
            source.report.add_bad(error)


def _question(row: QuestionRow, media: Media) -> dict[str, Any]:
    images = [_image(part, media) for part in row.pictures]
    captions = list(row.captions) or [""] * len(images)
    for clip in row.clips:
        frames = media.frames(clip)
        images += [_image(Picture(frame), media) for frame in frames.images]
        captions += frames.captions
    return {
        "id": row.id,
        "text": row.text,
        "answers": list(row.answers),
        "kind": row.kind,
        "meta": json.dumps(row.meta, ensure_ascii=False),
        "images": images,
        "captions": captions if any(captions) else [],
    }


def _example(row: ExampleRow, media: Media) -> dict[str, Any]:
    return {
        "id": row.id,
        "system": row.system,
        "observations": [[cell for part in parts for cell in _cells(part, media)] for parts in row.observations],
        "turns": list(row.turns),
    }


def _cells(part: str | Picture | Clip, media: Media) -> list[dict[str, Any]]:
    """A part of a message as a table holds it; a video becomes its frames, each after its time."""
    if isinstance(part, str):
        return [{"text": part, "image": None}]
    if isinstance(part, Picture):
        return [{"text": None, "image": _image(part, media)}]
    out: list[dict[str, Any]] = []
    frames = media.frames(part)
    for caption, frame in zip(frames.captions, frames.images, strict=True):
        out += [{"text": caption, "image": None}] if caption else []
        out.append({"text": None, "image": _image(Picture(frame), media)})
    return out


def _image(part: Picture, media: Media) -> dict[str, Any]:
    return {"bytes": media.encoded(part), "path": None}


class _Writer(Protocol):
    bytes: int

    def write(self, row: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class _ParquetShard:
    """Row groups of a few rows, so that one row can be read without many others."""

    def __init__(self, path: Path):
        self.bytes = 0
        self._path = path
        self._writer: Any = None
        self._rows_of_group: list[dict[str, Any]] = []
        self._group_bytes = 0

    def write(self, row: dict[str, Any]) -> None:
        size = _size(row)
        self._rows_of_group.append(row)
        self._group_bytes += size
        self.bytes += size
        if self._group_bytes >= GROUP_BYTES or len(self._rows_of_group) >= GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._rows_of_group:
            return
        table = pa.Table.from_pylist(self._rows_of_group, schema=_schema(self._rows_of_group[0]))
        if self._writer is None:
            # Pictures are compressed already; texts are few bytes beside them.
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="none", use_dictionary=False)
        self._writer.write_table(table, row_group_size=len(self._rows_of_group))
        self._rows_of_group, self._group_bytes = [], 0


class _RecordShard:
    """Each record is a row as our JSON lines have it, pictures in base64."""

    def __init__(self, draft: Path, name: Path):
        from array_record.python.array_record_module import ArrayRecordWriter

        self.bytes = 0
        self._name, self._number = name, 0
        self._writer = ArrayRecordWriter(str(draft), "group_size:1")

    def write(self, row: dict[str, Any]) -> None:
        self._number += 1
        data = json_line(self._name, self._number, _in_json(row)).rstrip("\n").encode()
        self._writer.write(data)
        self.bytes += len(data)

    def close(self) -> None:
        self._writer.close()


def _in_json(row: dict[str, Any]) -> dict[str, Any]:
    if "turns" in row:
        observations = [
            [p["text"] if p["image"] is None else {"image": _base64(p["image"])} for p in parts]
            for parts in row["observations"]
        ]
        return row | {"observations": observations}
    return row | {"images": [_base64(part) for part in row["images"]], "meta": json.loads(row["meta"])}


def _base64(image: dict[str, Any]) -> str:
    return base64.b64encode(image["bytes"]).decode()


def _size(row: dict[str, Any]) -> int:
    """Bytes of a row, about."""
    if "turns" in row:
        parts = [part for parts in row["observations"] for part in parts]
        size = sum(len(p["text"]) if p["image"] is None else len(p["image"]["bytes"]) for p in parts)
        return size + sum(map(len, row["turns"])) + len(row["system"])
    return sum(len(part["bytes"]) for part in row["images"]) + len(row["text"]) + len(row["meta"])


def _schema(row: dict[str, Any]) -> Any:
    import pyarrow as pa

    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    if "turns" in row:
        part = pa.struct([("text", pa.string()), ("image", picture)])
        return pa.schema(
            [
                ("id", pa.string()),
                ("system", pa.string()),
                ("observations", pa.list_(pa.list_(part))),
                ("turns", pa.list_(pa.string())),
            ]
        )
    texts = [(name, pa.string()) for name in ("id", "text")]
    rest = [
        ("kind", pa.string()),
        ("meta", pa.string()),
        ("images", pa.list_(picture)),
        ("captions", pa.list_(pa.string())),
    ]
    return pa.schema([*texts, ("answers", pa.list_(pa.string())), *rest])
