"""Two hundred labelled trajectories, put together from the scenarios: half of them sound, a tenth of each fault.

    python -m tests.data.labelled_trajectories     # writes labelled_trajectories.jsonl anew

The file is what the tests read, so that a label can be looked at beside its text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from hypereyes_jax.env.types import EpisodeResult, Invocation, Question, SearchHit, StopReason, TurnRecord
from tests.data.trajectory_scenarios import SCENARIOS, Scenario, Thing

FILE = Path(__file__).with_name("labelled_trajectories.jsonl")
LOOK_FIRST = (
    "Before cutting anything out I look the whole picture up.",
    "A search of the entire image may already find the page it is from.",
)
RETRY = (
    "Nothing came back for that wording. I rephrase.",
    "No relevant information; let me try simpler words.",
)
NEXT = ("Next one.", "On to the following one.", "Now the other.", "And then the next.")

Turn = dict
Hits = list[list[str]]


def box(place: int, count: int) -> list[float]:
    return [round(place / count + 0.02, 2), 0.1, round((place + 1) / count - 0.02, 2), 0.9]


def images(scenario: Scenario, places: range | tuple[int, ...], reason: str, first_crop: int = 1) -> Turn:
    calls = []
    for number, place in enumerate(places):
        thing = scenario.things[place]
        crop = f"img_{first_crop + number}"
        calls.append(
            {
                "tool": "image_search",
                "query": crop,
                "source": "img_0",
                "crop_id": crop,
                "box": box(place, len(scenario.things)),
                "hits": [[thing.title, thing.snippet]],
            }
        )
    return {"reason": reason, "calls": calls}


def texts(queries: list[tuple[str, Hits]], reason: str) -> Turn:
    return {"reason": reason, "calls": [{"tool": "text_search", "query": q, "hits": hits} for q, hits in queries]}


def asked(thing: Thing) -> tuple[str, Hits]:
    return thing.query, [[thing.page, thing.text]]


def whole(reason: str, hits: Hits) -> Turn:
    return {
        "reason": reason,
        "calls": [{"tool": "image_search", "query": "img_0", "source": "img_0", "crop_id": "", "hits": hits}],
    }


def searches(scenario: Scenario) -> list[Turn]:
    """The wide way: all pictures, then all facts, then what follows from them."""
    everything = range(len(scenario.things))
    turns = [images(scenario, everything, scenario.plan)] if scenario.pictured else []
    turns.append(texts([asked(thing) for thing in scenario.things], scenario.then))
    return turns + hop(scenario)


def hop(scenario: Scenario) -> list[Turn]:
    if scenario.hop is None:
        return []
    reason, query, page, text = scenario.hop
    return [texts([(query, [[page, text]])], reason)]


def end(scenario: Scenario, reason: str | None = None, answer: str | None = None) -> list[Turn]:
    return [{"reason": reason or scenario.final, "calls": [], "answer": answer or scenario.answer}]


# Sound trajectories


def wide(s: Scenario, n: int) -> list[Turn]:
    return searches(s) + end(s)


def look_first(s: Scenario, n: int) -> list[Turn]:
    found = [["A collage", "Pictures put together by a user."]] if n % 2 else []
    start = whole(LOOK_FIRST[n % 2], found) if s.pictured else texts([("overview of the topic", [])], "A first try.")
    return [start, *searches(s), *end(s)]


def empty_then_rephrased(s: Scenario, n: int) -> list[Turn]:
    turns = searches(s)
    at = 1 if s.pictured else 0
    failing = texts([(f"{t.query} exact figure official", []) for t in s.things], s.then)
    turns[at] = {**turns[at], "reason": RETRY[n % 2]}
    return [*turns[:at], failing, *turns[at:], *end(s)]


def in_two_goes(s: Scenario, n: int) -> list[Turn]:
    if not s.pictured:
        first, *rest = s.things
        turns = [texts([asked(first)], s.plan), texts([asked(t) for t in rest], NEXT[n % 4])]
        return [*turns, *hop(s), *end(s)]
    half = max(1, len(s.things) // 2)
    first = images(s, range(half), s.plan)
    second = images(s, range(half, len(s.things)), NEXT[n % 4], half + 1)
    return [first, second, texts([asked(t) for t in s.things], s.then), *hop(s), *end(s)]


def mixed_call(s: Scenario, n: int) -> list[Turn]:
    """Pictures and, in the same turn, a background query that needs none of them."""
    turns = searches(s)
    background = {"tool": "text_search", "query": s.question.rstrip("?"), "hits": [["Discussion", "Readers ask this."]]}
    turns[0] = {**turns[0], "calls": [*turns[0]["calls"], background]}
    return [*turns, *end(s)]


# Faults


def alternating(s: Scenario, n: int) -> list[Turn]:
    turns: list[Turn] = []
    for place, thing in enumerate(s.things):
        reason = s.plan if place == 0 else NEXT[(n + place) % 4]
        if s.pictured:
            turns.append(images(s, (place,), reason, place + 1))
        turns.append(texts([asked(thing)], f"Look it up: {thing.query}."))
    if len(s.things) == 2:
        turns.insert(0, whole(LOOK_FIRST[n % 2], []) if s.pictured else texts([("overview of the topic", [])], s.plan))
    return [*turns, *hop(s), *end(s)]


def one_by_one(s: Scenario, n: int) -> list[Turn]:
    turns = [images(s, (i,), NEXT[i % 4] if i else s.plan, i + 1) for i in range(len(s.things)) if s.pictured]
    turns += [texts([asked(thing)], NEXT[(n + i) % 4]) for i, thing in enumerate(s.things)]
    if not s.pictured:
        turns.append(texts([(s.question.rstrip("?"), [["Discussion", "Readers ask this."]])], NEXT[n % 4]))
    return [*turns, *hop(s), *end(s)]


def repeated(s: Scenario, n: int) -> list[Turn]:
    turns = searches(s)
    again = {**turns[n % len(turns)], "reason": "I search that once more to be sure."}
    return [*turns, again, *end(s)]


def nothing_new(s: Scenario, n: int) -> list[Turn]:
    turns = searches(s)
    shown = [[f"{t.page} (mirror)", t.text] for t in s.things]
    more = [
        texts([(f"{s.things[0].query} confirmed {word}", shown)], f"Is that confirmed elsewhere? {word.capitalize()}.")
        for word in ("archive", "forum", "encyclopedia", "newspaper")[: len(turns) + 1]
    ]
    return [*turns, *more, *end(s)]


def invented(s: Scenario, n: int) -> list[Turn]:
    return searches(s) + end(s, s.invented, s.invented_answer or None)


def refers_to_nothing(s: Scenario, n: int) -> list[Turn]:
    bare = [{**turn, "reason": ("Search.", "Look this up.", "Continue.")[i % 3]} for i, turn in enumerate(searches(s))]
    return bare + end(s, s.vague)


def without_the_picture(s: Scenario, n: int) -> list[Turn]:
    facts = texts([asked(thing) for thing in s.things], f"I recognise what is shown. {s.then}")
    return [facts, *hop(s), *end(s)]


def no_reason(s: Scenario, n: int) -> list[Turn]:
    turns = searches(s)
    turns[-1] = {**turns[-1], "reason": "  "}
    return turns + end(s)


def broken_call(s: Scenario, n: int) -> list[Turn]:
    broken = {"reason": s.plan, "calls": [], "malformed": "the tool call is not valid JSON"}
    return [broken, *searches(s), *end(s)]


def no_answer(s: Scenario, n: int) -> list[Turn]:
    return [*searches(s), {"reason": s.final, "calls": [], "stop": "truncated"}]


SOUND: tuple[Callable[[Scenario, int], list[Turn]], ...] = (
    wide,
    look_first,
    empty_then_rephrased,
    in_two_goes,
    mixed_call,
)
FAULTY: dict[str, tuple[Callable[[Scenario, int], list[Turn]], ...]] = {
    "serial": (alternating, one_by_one),
    "zero-gain": (repeated, nothing_new),
    "ungrounded": (invented, refers_to_nothing),
    "unimodal": (without_the_picture,),
    "format": (no_reason, broken_call, no_answer),
}


def labelled() -> list[dict]:
    rows = []
    for n, scenario in enumerate(SCENARIOS):
        made = [("", make) for make in SOUND]
        for fault, makers in FAULTY.items():
            if fault == "unimodal" and not scenario.pictured:  # there is no picture to pass over
                fault, makers = "serial", FAULTY["serial"][::-1]
            made.append((fault, makers[n % len(makers)]))
        for fault, make in made:
            turns = make(scenario, n)
            images_shown = int(scenario.pictured)
            rows.append(
                {
                    "id": f"{n:02d}-{make.__name__}",
                    "fault": fault,
                    "question": scenario.question,
                    "images": images_shown,
                    "turns": turns,
                }
            )
    return rows


def read(row: dict) -> EpisodeResult:
    pictures = tuple(Image.new("RGB", (8, 8)) for _ in range(row["images"]))
    turns = tuple(
        TurnRecord(
            text="",
            reason=turn["reason"],
            invocations=tuple(
                Invocation(
                    tool=call["tool"],
                    query=call["query"],
                    source=call.get("source", ""),
                    box=tuple(call["box"]) if "box" in call else None,
                    crop_id=call.get("crop_id", ""),
                    hits=tuple(SearchHit(title, content, 0.9) for title, content in call["hits"]),
                )
                for call in turn["calls"]
            ),
            is_round=bool(turn["calls"]) or "malformed" in turn,
            malformed=turn.get("malformed", ""),
        )
        for turn in row["turns"]
    )
    last = row["turns"][-1]
    answer = last.get("answer")
    question = Question(row["id"], row["question"], pictures, (answer or "?",))
    return EpisodeResult(question, turns, StopReason(last.get("stop", "answered")), answer)


if __name__ == "__main__":
    FILE.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in labelled()), encoding="utf-8")
