"""The authors' own layouts, written: the columns of their RL data, and the files of their SFT.

Shapes are those that their published training code reads (veRL-style parquet; ms-swift JSON lines with `<image>` tags
and paths). `data.sources` reads both back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from hypereyes_jax.data.demonstration import Example
from hypereyes_jax.data.files import json_line
from hypereyes_jax.env.media.images import png_bytes
from hypereyes_jax.env.types import Part, Question
from hypereyes_jax.files import draft_of, write_atomic, writing, writing_atomic

_TAGS = re.compile(r"<(image|video|audio)>")
_GROUP_ROWS = 64  # of a row group: a row is read with its group


def write_rl_parquet(
    path: Path, questions: Iterable[Question], references: Mapping[str, tuple[int, int]], system: str
) -> int:
    """Writes questions in the authors' RL columns; returns how many.

    `extra_info.tool_call` is the reference's rounds and `parallel` the searches of each turn, whose sum is the
    reference's: the searches are laid out evenly over the rounds, since a reference does not tell their order.

    Args:
      references: (rounds, searches) by the questions' ids.
      system: stands as the first message of each prompt. A literal tag of a medium in a text is spaced, as in
        `write_sft_files`.

    Raises:
      UserError: the file can't be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    extra = [("question", pa.string()), ("type", pa.string()), ("index", pa.string())]
    extra += [("tool_call", pa.int64()), ("parallel", pa.string())]
    schema = pa.schema(
        [
            ("prompt", pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())]))),
            ("images", pa.list_(picture)),
            ("reward_model", pa.struct([("ground_truth", pa.string()), ("candidate_answers", pa.string())])),
            ("extra_info", pa.struct(extra)),
        ]
    )
    draft, count = draft_of(path), 0
    with writing(path):
        try:
            with pq.ParquetWriter(draft, schema) as writer:
                rows: list[dict[str, Any]] = []
                for question in questions:
                    rows.append(_rl_row(question, references[question.id], system))
                    count += 1
                    if len(rows) == _GROUP_ROWS:
                        writer.write_table(pa.Table.from_pylist(rows, schema))
                        rows = []
                if rows:
                    writer.write_table(pa.Table.from_pylist(rows, schema))
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    return count


def write_sft_files(folder: Path, examples: Iterable[Example]) -> int:
    """Writes `sft.jsonl` and the pictures it names in `images/`; returns how many conversations.

    The n-th `<image>` tag of a conversation stands for the n-th path; a literal tag in a text (`<image>`, `<video>`,
    `<audio>`) is spaced, so that it stands for none.

    Raises:
      UserError: the folder can't be written.
    """
    path, count = folder / "sft.jsonl", 0
    with writing(folder):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        with writing_atomic(path) as file:
            for example in examples:
                row = _sft_row(example, folder, count)
                count += 1
                file.write(json_line(path, count, row).encode())
    return count


def searches_by_round(rounds: int, searches: int) -> list[int]:
    """`searches` laid out over `rounds`, the first ones wider by one where it does not divide."""
    each, more = divmod(searches, rounds)
    return [each + (number < more) for number in range(rounds)]


def _rl_row(question: Question, reference: tuple[int, int], system: str) -> dict[str, Any]:
    rounds, searches = reference
    return {
        "prompt": [{"role": "system", "content": _spaced(system)}, {"role": "user", "content": _spaced(question.text)}],
        "images": [{"bytes": png_bytes(image), "path": None} for image in question.images],
        "reward_model": {
            "ground_truth": question.answers[0],
            "candidate_answers": json.dumps(list(question.answers[1:]), ensure_ascii=False),
        },
        "extra_info": {
            "question": _spaced(question.text),
            "type": "only_acc",
            "index": question.id,
            "tool_call": rounds,
            "parallel": json.dumps(searches_by_round(rounds, searches)),
        },
    }


def _sft_row(example: Example, folder: Path, number: int) -> dict[str, Any]:
    messages: list[dict[str, str]] = [{"role": "system", "content": example.system}]
    images: list[str] = []

    def text_of(part: Part) -> str:
        if isinstance(part, str):
            return _spaced(part)
        name = f"images/{number:06d}-{len(images)}.png"
        write_atomic(folder / name, png_bytes(part))
        images.append(name)
        return "<image>\n"

    for parts, turn in zip(example.observations, example.turns, strict=True):
        # Readers take the line's end behind a tag for a part of it, and nothing else: texts stand as they are.
        content = "".join(text_of(part) for part in parts).removesuffix("\n" * isinstance(parts[-1], Image.Image))
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": _spaced(turn)})
    return {"id": example.id, "messages": messages, "images": images}


def _spaced(text: str) -> str:
    return _TAGS.sub(r"< \1>", text)
