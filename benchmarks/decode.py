"""A decode step of the engine on the shipped model: layers scanned over or unrolled.

    python benchmarks/decode.py            # half a minute
    python benchmarks/decode.py --rows 16

Both programs sample the same tokens. The views are those of the engine's buckets. The last line is JSON: milliseconds a
step for each form and view, median of several calls that take turns, and the ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path

import jax
import numpy as np
from machine_speed import Machine

from hypereyes_jax.models.pretrained import load_model
from hypereyes_jax.models.qwen3_vl import Kernels
from hypereyes_jax.rollout.cache import kv
from hypereyes_jax.rollout.cache.access import DecodeSize
from hypereyes_jax.rollout.programs.decode import PackedDecodeRows, decode_rows
from hypereyes_jax.train.sizes import MINIATURE_RL

FORMS = {"scanned": Kernels(), "unrolled": Kernels(unrolled=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64, help="sequences that decode at a time")
    parser.add_argument("--calls", type=int, default=7, help="timed calls of each form and view")
    args = parser.parse_args()
    machine = Machine()
    model, params, _ = load_model(Path(str(resources.files("hypereyes_jax.assets") / "base")))
    settings = replace(MINIATURE_RL, slots=args.rows).engine()
    out: dict[str, dict[str, float]] = {}
    for view in settings.view_buckets:
        pages = settings.slot_pages
        packed = PackedDecodeRows.padding(args.rows, settings.max_steps, pages)
        for row in range(args.rows):
            place = view - settings.max_steps - 1
            own = range(row * pages, (row + 1) * pages)
            packed.put(row, (300, place, place, settings.max_steps, 0, 0), np.zeros(2, np.uint32), (), own)
        packed.floats_RF[:] = (0.8, 0.95, 0.0)  # temperature, top-p, min-p
        stores = {form: kv.init_store(model, args.rows * pages, settings.page_tokens, settings.kv) for form in FORMS}
        seconds: dict[str, list[float]] = {form: [] for form in FORMS}
        tokens = {}
        for _ in range(args.calls + 1):
            for form, kernels in FORMS.items():
                began = time.perf_counter()
                stores[form], drawn = decode_rows(
                    params, None, stores[form], packed, config=model, kernels=kernels,
                    size=DecodeSize(view, settings.max_steps),
                    forbidden=(model.image_token_id, model.video_token_id),
                )  # fmt: skip
                tokens[form] = jax.device_get(drawn.tokens_KR)
                seconds[form].append(time.perf_counter() - began)
        assert np.array_equal(tokens["scanned"], tokens["unrolled"])
        step_ms = {form: 1000 * statistics.median(s[1:]) / settings.max_steps for form, s in seconds.items()}
        out[str(view)] = {**step_ms, "ratio": step_ms["scanned"] / step_ms["unrolled"]}
        print(f"view {view:5}: " + ", ".join(f"{form} {ms:.1f} ms" for form, ms in step_ms.items()) + " a step")
    print(json.dumps(out | {"machine": machine.figures()}))


if __name__ == "__main__":
    main()
