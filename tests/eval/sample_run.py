"""A made-up run directory in the real formats; `python -m tests.eval.sample_run DIR` writes one with its report."""

import json
import math
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

from hypereyes_jax.env.types import EpisodeResult, Invocation, Question, SearchHit, StopReason, TurnRecord
from hypereyes_jax.eval.metrics import wilson_interval
from hypereyes_jax.eval.records import TrajectoryRecord, record_episode, write_records
from hypereyes_jax.eval.report import write_report
from hypereyes_jax.files import write_json
from hypereyes_jax.runs.metrics import MetricsWriter
from hypereyes_jax.runs.run_directory import RunDirectory

# name, "v" or "h" stripes, colours, life expectancy
FLAGS = (
    ("France", "v", ("#002395", "#ffffff", "#ed2939"), 82.6),
    ("Italy", "v", ("#009246", "#ffffff", "#ce2b37"), 83.0),
    ("Germany", "h", ("#000000", "#dd0000", "#ffce00"), 81.9),
    ("Netherlands", "h", ("#ae1c28", "#ffffff", "#21468b"), 81.9),
    ("Ireland", "v", ("#169b62", "#ffffff", "#ff883e"), 81.9),
    ("Mali", "v", ("#14b53a", "#fcd116", "#ce1126"), 63.2),
    ("Estonia", "h", ("#0072ce", "#000000", "#ffffff"), 78.4),
    ("Peru", "v", ("#d91023", "#ffffff", "#d91023"), 68.9),
)


def flag(kind, colours, size=(150, 100)):
    image = Image.new("RGB", size)
    draw = ImageDraw.Draw(image)
    width, height = size
    for i, colour in enumerate(colours):
        if kind == "v":
            draw.rectangle((i * width // 3, 0, (i + 1) * width // 3, height), colour)
        else:
            draw.rectangle((0, i * height // 3, width, (i + 1) * height // 3), colour)
    return image


def question(rng, number):
    """A mosaic of 2 x 2 to 2 x 4 flags in jittered cells, and the box of each."""
    columns = rng.choice((2, 3, 4))
    chosen = rng.sample(FLAGS, 2 * columns)
    mosaic = Image.new("RGB", (180 * columns, 260), "#d9dde6")
    boxes = []
    for i, (_, kind, colours, _) in enumerate(chosen):
        x = 180 * (i % columns) + rng.randint(5, 25)
        y = 130 * (i // columns) + rng.randint(4, 26)
        mosaic.paste(flag(kind, colours), (x, y))
        boxes.append((x / mosaic.width, y / 260, (x + 150) / mosaic.width, (y + 100) / 260))
    best = max(chosen, key=lambda country: country[3])
    text = "Of the countries whose flags are shown, which has the highest life expectancy at birth?"
    return Question(f"q{number:03d}", text, (mosaic,), (best[0],), "compare"), chosen, boxes


def page(country):
    text = (
        f"{country[0]} (country). People: life expectancy at birth {country[3]} years. "
        f"The flag of {country[0]} has three stripes. Government, geography and economy follow."
    )
    return SearchHit(country[0], text, 0.91, f"world://{country[0].lower()}")


def look(number, box, country, error=""):
    hits = () if error else (page(country),)
    return Invocation("image_search", f"img_{number}", "img_0", box, f"img_{number}", hits, error, 0.2)


def written(reason, body):
    return f"<reason>{reason}</reason>\n{body}"


def tool_turn(reason, calls, name, **arguments):
    body = f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"
    found = "\n".join(f"{call.query}: {hit.title} {hit.content}" for call in calls for hit in call.hits)
    shown = f"<tool_response>\n{found}\n</tool_response>"
    return TurnRecord(written(reason, body), reason, tuple(calls), True, "", 0.21, shown)


def episode(rng, asked, chosen, boxes, stage, serial):
    """`base` looks one by one and often wrongly, `sft` by rows, `rl` at everything at once."""
    width = 1 if serial or stage == "base" else (2 if stage == "sft" else len(boxes))
    turns, number = [], 1
    for start in range(0, len(boxes), width):
        calls = []
        for box, country in list(zip(boxes, chosen, strict=True))[start : start + width]:
            shaken = tuple(v + rng.gauss(0, 0.05 if stage == "base" else 0.008) for v in box)
            error = "the crop is empty" if stage == "base" and rng.random() < 0.15 else ""
            calls.append(look(number, shaken, country, error))
            number += 1
        reason = f"I see {len(boxes)} flags. I look up {len(calls)} of them{' at once' if len(calls) > 1 else ''}."
        areas = [[round(v, 3) for v in call.box] for call in calls]
        turns.append(tool_turn(reason, calls, "image_search", image_id="img_0", area=areas))
        if len(turns) == 8:
            break
    if stage != "rl":
        query = f"life expectancy {chosen[0][0]}"
        call = Invocation("text_search", query, hits=(page(chosen[0]),), seconds=0.2)
        turns.append(tool_turn("I check the first of them in the text.", [call], "text_search", input=[query]))
    right = rng.random() < {"base": 0.25, "sft": 0.6, "rl": 0.85}[stage]
    if not right and rng.random() < 0.3:
        return EpisodeResult(asked, tuple(turns), StopReason.TURN_LIMIT, None), False
    answer = asked.answers[0] if right else rng.choice([c[0] for c in chosen if c[0] != asked.answers[0]])
    reason = f"{answer} has the highest figure of those found."
    turns.append(TurnRecord(written(reason, f"<answer>{answer}</answer>"), reason, (), False))
    return EpisodeResult(asked, tuple(turns), StopReason.ANSWERED, answer), right


def record(rng, *arguments, stage, serial=False) -> TrajectoryRecord:
    result, right = episode(rng, *arguments, stage, serial)
    tokens = 500 + 300 * result.rounds + rng.randint(0, 200)
    return record_episode(
        result,
        stage=stage,
        split="heldout_serial" if serial else "heldout",
        correct=right,
        judge="exact",
        tokens=tokens,
        sampled_tokens=60 * (result.rounds + 1),
        seconds=0.4 * result.rounds,
    )


def summary(accuracy, rounds, invocations, kilo_tokens, n=240):
    right = round(accuracy * n)
    low, high = wilson_interval(right, n)
    wrong = {"answered": round(0.7 * (n - right)), "turn_limit": n - right - round(0.7 * (n - right))}
    return {
        "n": n, "accuracy": right / n, "accuracy_low": low, "accuracy_high": high, "rounds": rounds,
        "invocations": invocations, "kilo_tokens": kilo_tokens, "kilo_tokens_sampled": 0.2,
        "cas": 100 * (right / n) ** 2 / (kilo_tokens + 2 * rounds + 1), "seconds": 0.4 * rounds, "wall_seconds": 31.0,
        "masked_infrastructure": 3, "masked_judge": 0, "stops": {"answered": n}, "wrong_by_stop": wrong,
        "malformed_calls": 4, "failed_searches": 9, "rounds_histogram": {},
        "search": {
            "searches": 1100, "sent": 900, "attempts": 920, "success_rate": 0.991, "empty": 12,
            "failures": {"timeout": 8}, "cache_hits": 140, "shared": 60, "cost": 0.0,
            "latency_p50": 0.21, "latency_p90": 0.24, "latency_p99": 0.4,
        },
        "engine": {"decode": 0.62, "extend": 0.18, "waiting": 0.15, "idle": 0.05},
    }  # fmt: skip


def engine_trace(rng, slots=16):
    """Slots that read, decode, and are parked while their episode searches."""
    events = [{"ph": "M", "tid": i, "name": "thread_name", "args": {"name": f"slot {i}"}} for i in range(slots)]
    for tid in range(slots):
        at = rng.uniform(0, 2e5)
        while at < 6e6:
            for name, length in (("extend", 3e4), ("decode", rng.uniform(2e5, 5e5)), ("parked", 2e5)):
                events.append({"ph": "X", "tid": tid, "name": name, "ts": at, "dur": length})
                at += length
    return {"traceEvents": events}


def write_run(path: Path, questions: int = 12, steps: int = 120) -> Path:
    rng = random.Random(0)
    run = RunDirectory.open(path, "quickstart", {"seed": 0, "groups": 16, "group_size": 8})
    stages = {
        "base": {"heldout": summary(0.22, 4.6, 4.7, 2.4), "seen": summary(0.27, 4.5, 4.6, 2.4)},
        "sft": {"heldout": summary(0.60, 2.9, 5.1, 1.9), "seen": summary(0.66, 2.8, 5.0, 1.9)},
        "rl": {
            "heldout": summary(0.81, 1.4, 4.9, 1.3),
            "seen": summary(0.84, 1.3, 4.9, 1.3),
            "heldout_serial": summary(0.77, 5.4, 5.4, 2.6),
        },
    }
    write_json(run.file("metrics.json"), {"run": run.run, "stages": stages})
    with MetricsWriter(run, "sft") as metrics:
        for step in range(steps):
            metrics.log(step, {"loss": 2.2 * math.exp(-step / 25) + 0.2 + rng.gauss(0, 0.03), "learning_rate": 1e-3})
    with MetricsWriter(run, "rl") as metrics:
        for step in range(steps):
            grown = 1 - math.exp(-3 * step / steps)
            values = {
                "accuracy": 0.58 + 0.25 * grown + rng.gauss(0, 0.05),
                "rounds": 2.9 - 1.5 * grown + rng.gauss(0, 0.12),
                "reference_rounds": 3.0 - 1.3 * (step // 20) * 20 / steps,
                "invocations": 5.1 - 0.3 * grown + rng.gauss(0, 0.1),
                "reference_invocations": 5.4 - 0.5 * (step // 20) * 20 / steps,
                "reward": 0.9 + 0.9 * grown + rng.gauss(0, 0.1),
                "reward_tool": 0.1 + 0.5 * grown + rng.gauss(0, 0.05),
                "references_tightened": 14.0 if step % 20 == 0 else 0.0,
                "seconds_generation": 1.2 - 0.5 * grown + rng.gauss(0, 0.03),
                "seconds_search": 0.16 + rng.gauss(0, 0.01),
                "seconds_judging": 0.01,
                "seconds_packing": 0.02,
                "seconds_waiting": 0.0,
                "seconds_teacher": 0.2 + rng.gauss(0, 0.01),
                "seconds_training": 0.6 + rng.gauss(0, 0.03),
                "seconds_sync": 0.05,
                "engine_decode": 0.6 + 0.1 * grown,
                "engine_extend": 0.2 - 0.05 * grown,
                "engine_waiting": 0.15 - 0.05 * grown,
                "engine_idle": 0.05,
                "search_searches": 600.0 * (step + 1),
                "search_cache_hits": 100.0 * step,
                "search_cost": 0.0,
                "search_success_rate": 0.99,
                "search_latency_p50": 0.2,
                "search_latency_p90": 0.23,
                "search_latency_p99": 0.3 + abs(rng.gauss(0, 0.02)),
                "entropy": 0.5 - 0.2 * grown + rng.gauss(0, 0.01),
                "clip_share_high": abs(rng.gauss(0.01, 0.005)),
                "logp_gap": abs(rng.gauss(1e-5, 3e-6)),
            }
            if step % 20 == 0:
                values["heldout_accuracy"] = 0.6 + 0.21 * grown
            metrics.log(step, values)
    for name in ("timeline-base-heldout.json", "timeline-rl.json"):
        write_json(run.file(name), engine_trace(rng))
    made = [question(rng, i) for i in range(questions)]
    for stage in ("base", "sft", "rl"):
        write_records(run.file(f"trajectories-{stage}-heldout.jsonl"), [record(rng, *q, stage=stage) for q in made])
    write_records(
        run.file("trajectories-rl-heldout_serial.jsonl"), [record(rng, *q, stage="rl", serial=True) for q in made]
    )
    return path


if __name__ == "__main__":
    print(write_report(write_run(Path(sys.argv[1]))))
