"""Which commands a study comes to, and which of them it shares."""

import importlib
from pathlib import Path

import pytest
import tyro

from hypereyes_jax.cli.main import COMMANDS
from hypereyes_jax.errors import UserError
from hypereyes_jax.study.comparisons import ABLATIONS, ablations, depth, paradigms
from hypereyes_jax.study.pipelines import Pipelines, Variant
from hypereyes_jax.study.registry import STUDIES
from hypereyes_jax.study.sweeps import distractors
from hypereyes_jax.study.types import StudyOptions


def commands(study, name):
    return [step.words for step in study.steps if step.words[:1] == (name,)]


def test_every_command_can_be_typed():
    """Read by the command's own options: as many of them as it takes to see each option once."""
    seen = set()
    for build in STUDIES.values():
        for step in build(StudyOptions(shuffles=1)).steps:
            options = {(step.words[0], word) for word in step.words if word.startswith("--")} if step.words else set()
            if options <= seen:
                continue
            seen |= options
            command = COMMANDS[step.words[0]]
            module = importlib.import_module(f"hypereyes_jax.cli.{command.module}")
            read = tyro.cli(getattr(module, command.config), args=list(step.words[1:]))
            assert str(read.out) == step.words[-1]
            if "--sizes.episode.serial" in step.words:
                assert read.sizes.episode.serial
    assert ("rl", "--sizes.episode.serial") in seen


def test_variants_share_base_data_sft_and_the_selection_of_questions_where_these_are_equal():
    study = ablations(StudyOptions(seeds=(0, 1)))
    assert len(commands(study, "synth")) == 3  # the usual demonstrations, without PRS, without curation
    assert len(commands(study, "sft")) == 6
    runs = commands(study, "rl")
    assert len(runs) == 2 * len(ABLATIONS)
    assert len({words[-1] for words in runs}) == len(runs)
    shared = [words for words in runs if "--references" in words]
    assert len(shared) == 2 * 5  # no TRACE, static, step, no OPD, vanilla teacher
    selections = {words[words.index("--references") + 1] for words in shared}
    assert len(selections) == 2
    assert all(path.endswith("rl_selection.json") for path in selections)
    asked = {words[words.index("--questions") + 1] for words in commands(study, "eval")}
    assert len(asked) == 1  # every variant answers the same questions


def test_each_step_comes_after_those_whose_files_it_reads():
    for build in STUDIES.values():
        study = build(StudyOptions(out=Path("o"), shuffles=1))
        made = set()
        for step in study.steps:
            needed = [word for word in step.words[:-1] if word.startswith("o/")]
            for path in needed:
                assert any(path.startswith(folder) for folder in made), (step.name, path)
            made |= {str(step.done), step.words[-1] if step.words else str(step.done)}


def test_each_ablation_says_what_it_leaves_out_in_its_commands():
    runs = {variant: None for variant in (v.name for v in ABLATIONS)}
    study = ablations(StudyOptions())
    for step in study.steps:
        for name in runs:
            if step.name == f"rl {name} seed 0":
                runs[name] = " ".join(step.words)
    assert "--reward.beta 0 " in runs["no-trace"]
    assert "--tighten never" in runs["static-reference"]
    assert "--tighten step" in runs["step-tightening"]
    assert "--teacher" not in runs["no-opd"]
    assert "--settings.opd-coef 0" in runs["no-opd"]
    assert runs["vanilla-teacher"].split("--teacher ")[1].split()[0].endswith("assets/base")
    assert runs["full"].split("--teacher ")[1].split()[0].endswith("assets/teacher")
    assert "--select no" in runs["no-curation"]
    assert "--sizes.episode.serial" in runs["serial-only"]


def test_a_directory_is_named_after_its_command_wherever_the_study_lies():
    here, there = (ablations(StudyOptions(out=Path(out))) for out in ("a", "b/c"))
    assert [step.done.relative_to("a") for step in here.steps] == [s.done.relative_to("b/c") for s in there.steps]
    other = ablations(StudyOptions(out=Path("a"), steps=25))
    assert {s.done for s in here.steps if "rl" in s.name} & {
        s.done for s in other.steps if "rl full" in s.name
    } == set()
    assert other.steps[0].done == here.steps[0].done  # the data are the same


def test_a_recipe_of_the_paper_needs_its_own_data_and_leaves_out_what_it_has_none_for():
    with pytest.raises(UserError, match="--checkpoint"):
        ablations(StudyOptions(recipe="30b"))
    given = {"checkpoint": "base", "demonstrations": "d", "questions": "q", "eval_questions": "e"}
    with pytest.raises(UserError, match="--questions"):
        ablations(StudyOptions(recipe="30b", **{**given, "questions": ""}))
    study = ablations(StudyOptions(recipe="30b", teacher="t", other_demonstrations={"no-prs": "n"}, **given))
    assert commands(study, "sft")[0][1] == "hypereyes_30b_sft"
    assert commands(study, "rl")[0][1] == "hypereyes_30b_rl"
    assert not commands(study, "synth")
    names = {step.name for step in study.steps}
    assert "rl no-prs seed 0" in names
    assert "rl no-curation seed 0" not in names
    assert "rl vanilla-teacher seed 0" not in names
    with pytest.raises(UserError, match="no recipe"):
        ablations(StudyOptions(recipe="7.5b", **given))


def test_paradigms_train_on_demonstrations_of_their_own_and_are_evaluated_in_them():
    study = paradigms(StudyOptions())
    assert [" ".join(w).split("--manner ")[1].split()[0] for w in commands(study, "eval")] == [
        "parallel",
        "llm-crop",
        "code-crop",
        "serial",
    ]
    assert [w[w.index("--paradigm") + 1] for w in commands(study, "synth") if "--paradigm" in w] == [
        "llm-crop",
        "code-crop",
    ]


def test_depth_asks_for_questions_of_stated_depths():
    assert "--depths 1 2 3 4" in " ".join(commands(depth(StudyOptions()), "synth")[0])


def test_distractors_are_asked_about_what_was_right_without_them():
    study = distractors(StudyOptions(policy="p", eval_questions="e", shuffles=2))
    first, right, *others = study.steps
    assert "--distractors" not in first.words
    assert right.make is not None
    assert len(others) == 10
    assert all(str(right.done) in step.words for step in others)


def test_one_variant_twice_is_one_set_of_steps():
    pipelines = Pipelines(StudyOptions())
    one = pipelines.rl(Variant("full"), 0)
    count = len(pipelines.steps)
    assert pipelines.rl(Variant("full"), 0) == one
    assert len(pipelines.steps) == count


def test_what_only_made_finished_evaluations_is_not_done_again(tmp_path):
    """A study goes on from evaluations alone: its models take gigabytes, and may be on another machine."""
    study = ablations(StudyOptions(out=tmp_path, seeds=(0, 1)))
    for step in study.steps:
        if step.name.startswith("eval") and "seed 1" not in step.name:
            step.done.parent.mkdir(parents=True)
            step.done.touch()
    names = [step.name for step in study.open_steps()]
    assert names == [step.name for step in study.steps if "seed 1" in step.name or step.name == "data"]
    for step in study.steps:
        if step.name.startswith("eval") and "rl full" not in step.name:
            step.done.parent.mkdir(parents=True, exist_ok=True)
            step.done.touch()
    assert [step.name for step in study.open_steps()] == ["data", "sft seed 1", "rl full seed 1", "eval rl full seed 1"]


def test_runs_that_a_summary_reads_are_done_whatever_their_evaluations(tmp_path):
    study = depth(StudyOptions(out=tmp_path))
    for step in study.steps:
        if step.name.startswith("eval"):
            step.done.parent.mkdir(parents=True)
            step.done.touch()
    assert {step.name for step in study.open_steps()} == {step.name for step in study.steps if step.name[:4] != "eval"}
