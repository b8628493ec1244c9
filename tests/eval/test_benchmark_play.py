"""The manners of an evaluation, and what may be asked."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image

from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.data.benchmarks import BENCHMARKS
from hypereyes_jax.data.sources import SourceOptions
from hypereyes_jax.env.actions import IMAGE_SEARCH
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.env.judging.judges import ExactJudge
from hypereyes_jax.env.manner import in_manner
from hypereyes_jax.env.types import StopReason
from hypereyes_jax.env.world import World, WorldBackend
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval import benchmark_play
from hypereyes_jax.eval.benchmark_play import play_benchmark, prepare_benchmark, read_summaries
from hypereyes_jax.eval.benchmark_run import OpenBenchmark, QuestionResult, level_summaries
from hypereyes_jax.eval.benchmark_table import own_row, to_latex
from hypereyes_jax.eval.policy import EvaluationRun
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory
from tests.eval.trajectories import mosaic, question, trajectory

CALL = '{"name": "image_search", "arguments": {"area": [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]}}'
LOOK = f"<reason>look</reason><tool_call>{CALL}</tool_call>"


async def rounds(manner, turns):
    backend = WorldBackend(World.load(passages=False))
    episode = Episode(question(images=[mosaic()]), backend, in_manner(EpisodeConfig(), manner))
    for turn in turns:
        if await episode.step(turn) is None:
            break
    return episode


async def test_direct_ends_with_the_first_turn_and_searches_nothing():
    episode = await rounds("direct", [LOOK, LOOK])
    assert episode.result().invocations == 0
    assert episode.result().stop is StopReason.TURN_LIMIT


async def test_serial_sends_one_search_a_turn():
    episode = await rounds("serial", [LOOK, "<reason>so</reason><answer>x</answer>"])
    assert episode.result().invocations == 1


async def test_workflow_leaves_two_rounds_and_says_what_each_is_for():
    episode = await rounds("workflow", [LOOK, LOOK, LOOK, LOOK])
    assert episode.result().rounds == 2
    assert episode.result().stop is StopReason.TURN_LIMIT
    assert "exactly three turns" in episode.system
    assert IMAGE_SEARCH in episode.system
    assert "exactly three turns" in in_manner(EpisodeConfig(system="Search."), "workflow").system


def test_workflow_adds_its_instruction_to_a_prompt_of_a_file_and_refuses_a_function(tmp_path):
    (tmp_path / "prompt.txt").write_text("Search in {rounds} rounds.")
    (tmp_path / "own.py").write_text("def write(facts):\n    return 'x'\n")
    rules = in_manner(EpisodeConfig(system=f"@{tmp_path / 'prompt.txt'}"), "workflow")
    system = Episode(question(), WorldBackend(World.load(passages=False)), rules).system
    assert system.startswith("Search in 2 rounds.")
    assert "exactly three turns" in system
    with pytest.raises(UserError, match="writes one for each question"):
        in_manner(EpisodeConfig(system=f"@{tmp_path / 'own.py'}:write"), "workflow")


async def test_parallel_leaves_the_rules_as_they_are():
    assert in_manner(EpisodeConfig(), "parallel") == EpisodeConfig()
    assert (await rounds("parallel", [LOOK, "<reason>so</reason><answer>x</answer>"])).result().invocations == 2


def test_a_subset_of_imeb_mini_and_a_benchmark_without_data(tmp_path):
    (tmp_path / "ids").write_text("imeb-mini-999\n")
    with pytest.raises(UserError, match="imeb-mini-999"):
        prepare_benchmark("imeb-mini", None, tmp_path / "ids")
    with pytest.raises(UserError, match="needs --data"):
        prepare_benchmark("fvqa", None)


def test_each_level_of_livevqa_is_summed_up_by_itself():
    ids = ("1-level1", "1-level2", "2-level1", "2-level2")
    benchmark = OpenBenchmark("livevqa", BENCHMARKS["livevqa"], ids, (), False)
    rows = {
        name: QuestionResult(name, right, None, "a", 2, 4, 100, 1.0, 0.0, "exact")
        for name, right in zip(ids, (True, False, True, True), strict=True)
    }
    one, two = level_summaries(benchmark, rows, "")
    assert (one.benchmark, one.n, one.accuracy) == ("livevqa-level1", 2, 1.0)
    assert (two.benchmark, two.n, two.accuracy) == ("livevqa-level2", 2, 0.5)
    assert "LiveVQA level 2" in to_latex([own_row("m", [one, two])])
    other = OpenBenchmark("fvqa", BENCHMARKS["fvqa"], ids, (), False)
    assert level_summaries(other, rows, "") == []


@pytest.mark.parametrize(
    "text",
    ["[]", "null", '{"model": []}', '{"model": {"x": 7}}', '{"model": {"x": {}}}', '{"model": {"x": {"n": "a"}}}', "{"],
)
def test_a_damaged_file_of_summaries_is_named(tmp_path, text):
    (tmp_path / "benchmarks.json").write_text(text)
    with pytest.raises(UserError, match=r"benchmarks\.json is damaged"):
        read_summaries(RunDirectory(tmp_path))


def test_a_benchmark_s_questions_without_their_pictures_are_told_and_left_out(tmp_path, capsys):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "1.png")
    row = {"question": "?", "image_path": "1.png", "answers": ["x"], "domain": "Art"}
    rows = [row, row | {"image_path": "2.png"}, row | {"answers": None}]
    (tmp_path / "bc_vl_level1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="line 3 is not a question of BrowseComp-VL"):
        prepare_benchmark("browsecomp-vl", tmp_path)
    opened = prepare_benchmark("browsecomp-vl", tmp_path, reading=SourceOptions(bad_rows="skip"))
    assert opened.ids == ("bc_vl_level1-1",)
    assert len(opened.questions[0].images) == 1
    assert "2 rows are left out: 1 x no answer (first: " in capsys.readouterr().out
    (tmp_path / "1.png").unlink()
    with pytest.raises(UserError, match=r"no question of browsecomp-vl can be asked\. .*line 3"):
        prepare_benchmark("browsecomp-vl", tmp_path, reading=SourceOptions(bad_rows="skip"))


@pytest.mark.parametrize("rows_in", [".", "browsecomp-vl"])
def test_a_folder_of_a_benchmark_s_name_may_hold_its_pictures_alone(tmp_path, rows_in):
    (tmp_path / "browsecomp-vl" / "images").mkdir(parents=True)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "browsecomp-vl" / "images" / "1.png")
    row = {"question": "?", "image_path": "browsecomp-vl/images/1.png", "answers": ["x"]}
    (tmp_path / rows_in / "bc_vl_level1.jsonl").write_text(json.dumps(row))
    assert len(prepare_benchmark("browsecomp-vl", tmp_path).questions[0].images) == 1


async def test_questions_that_do_not_fit_the_context_are_told(tmp_path, monkeypatch, capsys):
    async def play(questions, on_end):
        for number, asked in enumerate(questions):
            full = trajectory(asked.id, answer=None, stop=StopReason.CONTEXT_LIMIT)
            if number < 2:
                full = replace(full, result=replace(full.result, turns=()))
            on_end(number, full)

    monkeypatch.setattr(benchmark_play, "runner", lambda *args, **named: play)
    ids = ("a", "b", "c")
    opened = OpenBenchmark("mmsearch", BENCHMARKS["mmsearch"], ids, [question(name) for name in ids], False)
    with Stages() as stages:
        run = EvaluationRun(RunDirectory(tmp_path), stages, "m")
        summary = await play_benchmark(
            run,
            None,
            opened,
            backend=SimpleNamespace(metrics=SimpleNamespace(summary=lambda: {"cost": 0.0})),
            judge=ExactJudge(),
            episode=EpisodeConfig(),
            sampling=SamplingConfig(),
            visual_tokens=lambda image: 1,
        )
    assert (summary.n, summary.accuracy) == (3, 0.0)
    said = " ".join(capsys.readouterr().err.split())
    assert "2 questions do not fit the context and were not asked; they count as wrong: raise --context" in said
    assert "1 episodes ended since the context was full; they count as wrong" in said
