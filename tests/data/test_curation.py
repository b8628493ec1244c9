"""Scripted searching, rejection sampling, filters, selection, files."""

import base64
import io
import json
import re
import zlib
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hypereyes_jax import miniature
from hypereyes_jax.data.base_corpus import BaseCorpusConfig, base_corpus, seen_world
from hypereyes_jax.data.demonstration import Demonstration, Example
from hypereyes_jax.data.exercises import exercises
from hypereyes_jax.data.files import read_questions, write_examples, write_questions
from hypereyes_jax.data.filters import fault
from hypereyes_jax.data.questions import synthesize
from hypereyes_jax.data.rejection import progressive_rejection_sampling
from hypereyes_jax.data.searcher import CAREFUL, WASTEFUL, Habits, demonstrate, snap
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.judging.judges import ExactJudge
from hypereyes_jax.env.types import EpisodeResult, Invocation, Question, SearchHit, StopReason, TurnRecord
from hypereyes_jax.env.world import World, WorldBackend
from hypereyes_jax.errors import UserError
from tests.data.demonstrations import read_examples

RULES = EpisodeConfig(text_k=1, image_k=1)


@pytest.fixture(scope="module")
def world():
    return seen_world()


@pytest.fixture(scope="module")
def questions(world):
    return synthesize(world, 60, seed=5)


async def play(questions, world, habits, budget=8):
    rng, backend, judge = np.random.default_rng(0), WorldBackend(world), ExactJudge()
    out = [await demonstrate(q, backend, habits, rng, RULES, budget) for q in questions]
    right = [await judge.judge(q.question, d.result.answer) for q, d in zip(questions, out, strict=True)]
    return out, float(np.mean(right))


async def test_a_searcher_without_bad_habits_is_right_in_two_wide_rounds(questions, world):
    played, right = await play(questions, world, Habits())
    assert right >= 0.95  # a question may need eight flags, and the image search misses one crop in a hundred
    assert max(d.result.rounds for d in played) <= 3
    assert all(fault(d.result, miniature.FILTERS) is None for d in played)


async def test_habits_order_the_searchers(questions, world):
    _, careful = await play(questions, world, CAREFUL)
    _, wasteful = await play(questions, world, WASTEFUL)
    assert wasteful < careful < 0.97
    narrow, right = await play(questions, world, Habits(wide_images=0, wide_texts=0))
    wide, _ = await play(questions, world, Habits())
    assert right >= 0.95
    assert np.mean([d.result.rounds for d in narrow]) > 1.5 * np.mean([d.result.rounds for d in wide])


async def test_a_budget_bounds_the_rounds(questions, world):
    for budget in (1, 2, 3):
        played, _ = await play(questions, world, WASTEFUL, budget)
        assert max(d.result.rounds for d in played) <= budget


def test_boxes_are_written_on_the_grid_and_never_empty():
    assert snap((0.017, 0.03, 0.49, 0.96)) == (0.0, 0.04, 0.48, 0.96)
    x1, y1, x2, y2 = snap((0.5, 0.5, 0.501, 0.501))
    assert x2 > x1
    assert y2 > y1


def result(*turns, stop=StopReason.ANSWERED, answer="Chad", question=None):
    question = question or Question("q", "Which?", (Image.new("RGB", (8, 8)),), ("Chad",))
    return EpisodeResult(question, (*turns, TurnRecord("", "This is Chad.", (), False)), stop, answer)


def search(tool, *found, reason="look", malformed=""):
    calls = tuple(Invocation(tool, f"q{i}", hits=(SearchHit(text, "", 1.0),)) for i, text in enumerate(found))
    return TurnRecord("", reason, calls, True, malformed)


def look(found, place):
    """A search of a region of its own."""
    call = Invocation("image_search", f"img_{place}", "img_0", (0.1 * place, 0, 0.1 * place + 0.1, 1), f"img_{place}")
    return TurnRecord("", f"It shows {found}.", (replace(call, hits=(SearchHit(found, "", 1.0),)),), True)


LOOK = look("Chad", 0)


@pytest.mark.parametrize(
    ("episode", "expected"),
    [
        (result(LOOK), None),
        (result(LOOK, LOOK), "zero-gain"),
        (result(LOOK, TurnRecord("", "look", (Invocation("text_search", "Chad"),), True)), "zero-gain"),
        (result(LOOK, look("Mali", 1), look("Peru", 2)), "serial"),
        (result(LOOK, look("Mali", 1), search("text_search", "Peru")), None),
        (result(LOOK, search("image_search", "Mali", "Peru"), look("Fiji", 3)), None),
    ],
)
def test_the_miniatures_filters_leave_waste_to_unlearn(episode, expected):
    assert fault(episode, miniature.FILTERS) == expected


async def test_rejection_sampling_keeps_the_smallest_budget_that_succeeds():
    asked = []

    async def attempt(question, budget, trial):
        asked.append((budget, trial))
        rounds = 3
        episode = result(*[LOOK] * rounds, answer="Chad" if budget >= rounds else "Mali")
        return Demonstration(Example("q", "", (), ()), episode)

    found = await progressive_rejection_sampling(result().question, attempt, ExactJudge(), trials=2)
    assert found.result.rounds == 3
    assert asked == [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0)]


async def test_rejection_sampling_drops_what_never_succeeds():
    async def attempt(question, budget, trial):
        return Demonstration(Example("q", "", (), ()), result(answer="Mali"))

    assert await progressive_rejection_sampling(result().question, attempt, ExactJudge(), budgets=(1, 2)) is None


def test_held_out_countries_are_in_no_base_training():
    world = World.load(passages=False)
    names = {name for key in world.split()[1] for name in world.country(key).names if len(name) > 4}
    assert not set(seen_world().keys) & set(world.split()[1])  # so none of their flags either
    corpus = list(islice(base_corpus(BaseCorpusConfig(), seed=0), 80))
    assert not any(d.result.question.meta["held_out"] for d in corpus)
    text = " ".join(
        " ".join(part for parts in d.example.observations for part in parts if isinstance(part, str))
        + " ".join(d.example.turns)
        for d in corpus
    )
    text += " ".join(
        e.question + "".join(piece for piece, _ in e.turn) for e in islice(exercises(BaseCorpusConfig(), 0), 200)
    )
    assert not [
        name for name in names if re.search(rf"\b{re.escape(name)}\b", text)
    ]  # "Australian dollar" is not Australia


def test_files_give_back_what_was_written(tmp_path, questions):
    asked = [replace(q.question) for q in questions[:5]]
    write_questions(tmp_path / "q.jsonl", asked)
    back = read_questions(tmp_path / "q.jsonl")
    assert [(q.id, q.text, q.answers, q.meta) for q in back] == [(q.id, q.text, q.answers, q.meta) for q in asked]
    for ours, theirs in zip(asked, back, strict=True):
        assert [np.asarray(i).tolist() for i in ours.images] == [np.asarray(i).tolist() for i in theirs.images]
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8))
    example = Example("e", "be wide", (("look", image), ("found",)), ("<reason>look</reason>", "<answer>x</answer>"))
    write_examples(tmp_path / "e.jsonl", [example])
    (again,) = read_examples(tmp_path / "e.jsonl")
    assert (again.id, again.system, again.turns) == (example.id, example.system, example.turns)
    assert again.observations[0][0] == "look"
    assert np.array_equal(np.asarray(again.observations[0][1]), np.asarray(image))


GOOD = {"id": "a", "text": "?", "answers": ["x"]}
SHOWN = {"id": "a", "system": "", "observations": [["look"]], "turns": ["<answer>x</answer>"]}


def png(**damage: bytes) -> str:
    """A picture as a data URI, after replacing each of the named chunks' headers by the given bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(buffer, "PNG")
    data = buffer.getvalue()
    for name, other in damage.items():
        assert name.encode() in data
        data = data.replace(name.encode(), other)
    return "data:image/png;base64," + base64.b64encode(data).decode()


def png_whose_second_chunk_of_pixels_has_no_name() -> str:
    whole = base64.b64decode(png().partition(",")[2])
    start = whole.index(b"IDAT") - 4
    half = b"IDAT" + whole[start + 8 : start + 12]
    first = (len(half) - 4).to_bytes(4) + half + zlib.crc32(half).to_bytes(4)
    data = whole[:start] + first + b"\0\0\0\4\0\0\0\0" + whole[start + 12 :]
    return "data:image/png;base64," + base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("9" * 5_000, "not JSON"),
        (json.dumps({**GOOD, "text": "\ud800"}), "not JSON"),
        ("[]", "JSON object"),
        (json.dumps({**GOOD, "id": [3]}), "'id'"),
        (json.dumps({**GOOD, "answers": []}), "'answers'"),
        (json.dumps({**GOOD, "answers": [{}]}), "'answers'"),
        (json.dumps({**GOOD, "meta": [1]}), "'meta'"),
        (json.dumps({**GOOD, "images": [3]}), "image"),
        (json.dumps({**GOOD, "images": ["data:image/png;base64,AAAA"]}), "image"),
        (json.dumps({**GOOD, "images": [png(IDAT=b"\0\0\0\0")]}), "image"),
        (json.dumps({**GOOD, "images": [png_whose_second_chunk_of_pixels_has_no_name()]}), "SyntaxError"),  # Pillow's
        (json.dumps({**GOOD, "images": [png(IHDR=b"IDAT")]}), "image"),
        (json.dumps(GOOD), "is that of line 1"),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_cure(tmp_path, line, why):
    path = tmp_path / "questions.jsonl"
    other = GOOD if line == json.dumps(GOOD) else GOOD | {"id": "b"}
    path.write_text(json.dumps(other) + "\n\n" + line + "\n")  # an empty line is none, but counts
    with pytest.raises(UserError, match=f"questions.jsonl, line 3: .*{why}.*Mend or remove"):
        read_questions(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"id": [3]}, "'id'"),
        ({"system": None}, "'system'"),
        ({"turns": "<answer>"}, "'turns'"),
        ({"turns": [1]}, "'turns'"),
        ({"turns": []}, "as many turns"),
        ({"observations": "look"}, "'observations'"),
        ({"observations": ["look"]}, "'observations'"),
        ({"observations": [[{"picture": png()}]]}, "'observations'"),
        ({"observations": [[{"image": None}]]}, "image"),
        ({"observations": [[{"image": png(IDAT=b"\0\0\0\0")}]]}, "image"),
    ],
)
def test_a_bad_demonstration_is_named_with_its_file_and_cure(tmp_path, change, why):
    path = tmp_path / "demonstrations.jsonl"
    path.write_text(json.dumps(SHOWN) + "\n" + json.dumps(SHOWN | change) + "\n")
    with pytest.raises(UserError, match=f"demonstrations.jsonl, line 2: .*{why}.*Mend or remove"):
        read_examples(path)


def read_or_refused(read, path):
    """What was read, or the refusal of line 1 (row 1, or the file, where it is an array); no other exception."""
    try:
        return read(path)
    except UserError as error:
        return (
            [str(error)]
            if str(error).startswith((f"{path}, line 1: ", f"{path}, row 1: ", f"no row of {path}"))
            else []
        )


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(png()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("image"), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_line_of_json_is_read_or_refused_by_name(tmp_path, data):
    read, good = data.draw(st.sampled_from([(read_questions, GOOD), (read_examples, SHOWN)]))
    fields = st.sampled_from([*good, "kind", "meta", "images"])
    row = good | data.draw(st.dictionaries(fields, VALUES, max_size=3)) if data.draw(st.booleans()) else good
    line = json.dumps(row if row is not good else data.draw(VALUES), ensure_ascii=data.draw(st.booleans()))
    path = tmp_path / "any.jsonl"
    path.write_text(line, encoding="utf-8")
    assert len(read_or_refused(read, path)) == 1


@given(st.binary(max_size=60), st.integers(0, 60))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_of_an_image_are_read_or_refused_by_name(tmp_path, other, place):
    whole = base64.b64decode(png().partition(",")[2])
    data = whole[:place] + other + whole[place + len(other) :]
    path = tmp_path / "any.jsonl"
    path.write_text(json.dumps(GOOD | {"images": [base64.b64encode(data).decode()]}))
    assert len(read_or_refused(read_questions, path)) == 1


LINES = st.text(st.characters(codec="utf-8") | st.sampled_from("\n\r\v\f\x1c\x85\u2028\u2029"), max_size=8)


ANSWERS = st.lists(LINES, min_size=1, max_size=3).filter(lambda texts: any(map(str.strip, texts)))


@given(LINES, LINES, ANSWERS)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_back_as_it_was_written(tmp_path, text, kind, answers):
    asked = [Question(f"{text}{i}", text, (), tuple(answers), kind, {kind: text}) for i in range(2)]
    write_questions(tmp_path / "q.jsonl", asked)
    assert read_questions(tmp_path / "q.jsonl") == asked
    shown = [Example(text, kind, ((text,),), (f"<reason>{text}</reason><answer>x</answer>",))]
    write_examples(tmp_path / "e.jsonl", shown)
    assert read_examples(tmp_path / "e.jsonl") == shown


def test_half_a_surrogate_pair_is_refused_and_the_old_file_kept(tmp_path):
    path = tmp_path / "q.jsonl"
    whole, half = (Question(id, "?", (), (answer,), "k", {}) for id, answer in (("one", "x"), ("two", "\ud83d")))
    write_questions(path, [whole])
    with pytest.raises(UserError, match=r"q.jsonl, line 2 \('two'\): half of a surrogate pair"):
        write_questions(path, [whole, half])
    assert read_questions(path) == [whole]


@pytest.mark.parametrize("reads", [read_questions, read_examples])
def test_what_is_no_file_of_text_is_named(tmp_path, reads):
    with pytest.raises(UserError, match=f"there is no {tmp_path}/gone"):
        reads(tmp_path / "gone")
    with pytest.raises(UserError, match=f"{tmp_path} holds no data file"):
        reads(tmp_path)
    (tmp_path / "latin").write_bytes(b"\xe9")
    with pytest.raises(UserError, match="latin is not a text file in UTF-8"):
        reads(tmp_path / "latin")


def test_numbers_and_arrays_of_numpy_are_written_as_json_has_them(tmp_path):
    meta = {"n": np.int64(3), "x": np.float32(0.5), "ok": np.bool_(True), "v": np.arange(3)}
    write_questions(tmp_path / "q.jsonl", [Question("q", "?", (), ("a",), "", meta)])
    assert read_questions(tmp_path / "q.jsonl")[0].meta == {"n": 3, "x": 0.5, "ok": True, "v": [0, 1, 2]}


def test_what_json_cannot_hold_is_named_by_question_and_field(tmp_path):
    asked = [Question("one", "?", (), ("a",)), Question("two", "?", (), ("a",), "", {"when": object()})]
    for kind in (UserError, ValueError):
        with pytest.raises(kind, match=r"q.jsonl, line 2 \('two'\): meta can't be written as JSON"):
            write_questions(tmp_path / "q.jsonl", asked)
    assert not list(tmp_path.iterdir())  # neither a part of it


@pytest.mark.parametrize(
    ("image", "why"),
    [(b"x", "is a bytes, and must be a PIL image"), (Image.new("F", (2, 2)), "can't be written as PNG")],
)
def test_an_image_that_no_file_holds_is_named(tmp_path, image, why):
    with pytest.raises(ValueError, match=rf"image 0 of 'one' {why}"):
        write_questions(tmp_path / "q.jsonl", [Question("one", "?", (image,), ("a",))])


def test_writers_hold_one_row_at_a_time(tmp_path):
    alive = 0
    most = 0

    class Counted(Question):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def asked():
        nonlocal alive, most
        for number in range(50):
            alive += 1
            most = max(most, alive)
            yield Counted(str(number), "?", (), ("a",))

    write_questions(tmp_path / "q.jsonl", asked())
    assert most <= 3
    assert len(read_questions(tmp_path / "q.jsonl")) == 50
