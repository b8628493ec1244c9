"""The ten commands: what they say of themselves, the services that stand in, and all of them at a small size."""

import json
import re
from pathlib import Path

import pytest

from hypereyes_jax.cli import main as cli
from hypereyes_jax.cli.main import COMMANDS
from hypereyes_jax.data.benchmarks import BENCHMARKS, open_benchmark
from hypereyes_jax.data.photos import open_photos
from hypereyes_jax.data.questions import SynthesisConfig, synthesize
from hypereyes_jax.env.world import World
from hypereyes_jax.files import read_json
from hypereyes_jax.reproduce.commands import PAPER_STEPS, small_steps
from hypereyes_jax.reproduce.offline_services import UNKNOWN, chat_reply
from hypereyes_jax.reproduce.small_inputs import BIRDS, write_benchmarks, write_cub
from hypereyes_jax.study import execution
from hypereyes_jax.study.execution import shell_line

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "reproduce.md").read_text()


def test_the_page_has_the_ten_commands_with_their_needs():
    for step in PAPER_STEPS:
        assert shell_line(step.words) in PAGE
        assert step.device_hours in PAGE
        assert f"${step.dollars():,.0f}" in PAGE
    assert len(PAPER_STEPS) == 10


def test_the_small_commands_are_the_paper_sized_ones_in_order():
    small = small_steps(Path("o"), "http://127.0.0.1:1", "http://127.0.0.1:2")
    assert [step.words[0] for step in small] == [step.words[0] for step in PAPER_STEPS]
    assert all(step.words[0] in COMMANDS for step in small)
    for one, other in zip(small, PAPER_STEPS, strict=True):
        assert one.name.endswith(other.title)
        for option in ("--stage", "--name", "--benchmark"):
            if option in other.words:
                place = other.words.index(option) + 1
                assert one.words[one.words.index(option) + 1] == other.words[place]


def test_the_list_is_printed_with_the_dollars_of_search(capsys):
    assert cli.main(["reproduce", "--search-price", "0.01"]) == 0
    out = capsys.readouterr().out
    assert "600,000" in out
    assert "$6,000" in out
    total = re.search(r"\$([\d,]+) of searches in all", out)[1].replace(",", "")
    assert float(total) == pytest.approx(0.01 * sum(step.searches for step in PAPER_STEPS), abs=1)


def test_a_directory_of_other_things_is_no_place_for_it(tmp_path, capsys):
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "curation.yaml").write_text("mine")
    assert cli.main(["reproduce", "--small", "--out", str(tmp_path)]) == 2
    assert "holds inputs, which `hypereyes reproduce` would replace" in capsys.readouterr().err
    assert (tmp_path / "inputs" / "curation.yaml").read_text() == "mine"


@pytest.mark.parametrize(("options", "minutes"), [((), None), (("--minutes", "3"), 3.0)])
def test_the_small_commands_begin_without_a_limit_unless_one_is_given(tmp_path, monkeypatch, options, minutes):
    seen = []

    def begun(steps, logs, tell, minutes):
        seen.append((len(steps), minutes))
        return False

    monkeypatch.setattr(execution, "execute", begun)
    assert cli.main(["reproduce", "--small", "--out", str(tmp_path / "o"), *options]) == 0
    assert seen == [(10, minutes)]
    assert (tmp_path / "o" / "inputs" / "curation.yaml").exists()


def test_every_benchmark_is_read_from_the_small_files(tmp_path):
    rules = SynthesisConfig(textual_share=0.0)
    asked = [synth.question for synth in synthesize(World.load(), 24, 0, rules)]
    write_benchmarks(tmp_path, asked)
    texts = {question.text for question in asked}
    for name in BENCHMARKS:
        if name == "imeb-mini":
            continue
        opened = open_benchmark(name, tmp_path / name)
        assert len(opened) == 4
        for question in opened:
            assert question.text in texts
            assert question.images


def test_the_photo_set_is_read_as_cub(tmp_path):
    write_cub(tmp_path)
    photos = open_photos("cub", tmp_path)
    assert sorted(photos.by_class) == [f"Made Bird {name}" for name in BIRDS]


_WORD = "\n\nReply with exactly one word, correct or incorrect."
_LETTER = "\n\nReply with one letter, A, B or C."


@pytest.mark.parametrize(
    ("data", "ending", "reply"),
    [
        ({"question": "q", "references": ["Niamey"], "answer": "niamey."}, _WORD, "correct"),
        ({"question": "q", "references": ["Niamey"], "answer": "Lome"}, _WORD, "incorrect"),
        ({"question": "q", "targets": ["a", "bee"], "answer": "Bee"}, _LETTER, "A"),
    ],
)
def test_the_judge_compares_with_what_is_accepted(data, ending, reply):
    prompt = "x\n" + json.dumps(data, indent=1) + ending
    assert chat_reply([{"role": "user", "content": prompt}]) == reply


def test_the_model_that_follows_rules_knows_nothing_by_itself_and_solves_from_facts_only():
    from hypereyes_jax.data.collection.endpoint import DIRECT

    assert chat_reply([{"role": "system", "content": DIRECT}, {"role": "user", "content": "Capital?"}]) == UNKNOWN
    things = [{"where": "left", "facts": {"wingspan": "20 cm"}}, {"where": "right", "facts": {"wingspan": "27 cm"}}]
    opening = "Answer a question about a picture from facts alone. Data:\n\n"
    asked = opening + json.dumps({"question": "q", "things": things}, indent=1)
    assert json.loads(chat_reply([{"role": "user", "content": asked}])) == {"answers": ["47"]}
    things[0]["facts"] = "unknown"
    asked = opening + json.dumps({"question": "q", "things": things}, indent=1)
    assert json.loads(chat_reply([{"role": "user", "content": asked}])) == {"answers": []}


@pytest.mark.slow
def test_all_ten_commands_run_offline_on_two_cores(tmp_path, capsys):
    out = tmp_path / "reproduce"
    assert cli.main(["reproduce", "--small", "--out", str(out)]) == 0
    assert "all ten commands ran" in capsys.readouterr().out
    table = (out / "table2" / "benchmarks.csv").read_text()
    ours = [line for line in table.splitlines() if line.startswith("model,")]
    assert len(ours) >= 6  # one a benchmark
    funnel = read_json(out / "curation" / "funnel.json")
    assert funnel["pools"] == {"visual": 3, "textual": 3, "public": 60}
    assert cli.main(["reproduce", "--small", "--out", str(out)]) == 0  # nothing is done anew
