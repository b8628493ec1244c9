"""The demonstrations of an SFT run: a source of any kind, without the rows that cannot be trained on."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.data.sources import Place, RowError, SourceOptions, open_examples
from hypereyes_jax.data.trajectories import DO_NOT_FIT, RowLimits, Trajectories, unusable
from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.processing import ChatFormat, PatchedImage, patchify_bytes
from hypereyes_jax.runs.terminal import Terminal
from hypereyes_jax.train.sizes import TrainingSizes


def open_demonstrations(
    source: str | Path,
    chat: ChatFormat,
    model: Qwen3VLConfig,
    sizes: TrainingSizes,
    processes: Processes,
    console: Terminal,
    options: SourceOptions | None = None,
) -> Trajectories:
    """The demonstrations that a row of a batch holds, in the order of the source; read when a batch asks for them.

    Each process looks through its share of the rows, without opening a picture further than its header. Then all know
    which rows are left out: those that are too long or hold a picture of a shape that no row takes, and those that are
    bad, unless the options refuse them. They are counted by kind, and the first of each is named.

    Raises UserError for a source that can't be read, for a bad row that is refused, and where nothing is left.
    """
    options = options or SourceOptions(bad_rows="skip")
    examples = open_examples(source, check=False, options=options)
    limits = RowLimits(sizes.context, sizes.min_pixels, sizes.max_pixels)
    own = unusable(examples, range(processes.index, len(examples), processes.count), chat, limits)
    errors = processes.gather([(index, *error.place, error.kind, error.why) for index, error in own])
    refuse = options.bad_rows == "refuse"
    left_out = {
        index: RowError(Place(file, number, unit), kind, why, can_skip=refuse)
        for index, file, number, unit, kind, why in sorted(row for rows in errors for row in rows)
    }
    report = examples.report.of_files()
    for error in left_out.values():
        if refuse and error.kind not in DO_NOT_FIT:
            examples.close()
            raise error
        report.add_bad(error)
    if processes.first:
        for sentence in report.left_out():
            console.print(sentence)
        for error in report.first_bad.values():
            console.print(f"  {error.place}: {error.why}")
    indices = [index for index in range(len(examples)) if index not in left_out]
    if not indices:
        examples.close()
        raise UserError(f"no demonstration of {source} can be trained on. {report.bad_in_words()}")

    def tell(error: RowError) -> None:
        console.print(f"left out: {error.place}: {error.why}")

    def patched(image: Image.Image) -> PatchedImage:
        """What a batch takes, as bytes: a quarter of the memory while it waits."""
        return patchify_bytes(image, model.vision, sizes.min_pixels, sizes.max_pixels)

    return Trajectories(examples, chat, indices, None if refuse else tell, patched)
