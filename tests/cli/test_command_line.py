"""What the `hypereyes` command itself offers: help, version, suggestions, completion, dry runs."""

import contextlib
import subprocess
import sys
from importlib import resources
from importlib.metadata import version

import pytest

import hypereyes_jax
from hypereyes_jax.cli import main as cli
from hypereyes_jax.cli.completion import CommandWords, command_words, script

BASE = str(resources.files("hypereyes_jax.assets") / "base")


def test_version_is_the_packages(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == hypereyes_jax.__version__


def test_the_package_run_as_a_module_is_the_command():
    def run(*words):
        whole = [sys.executable, "-m", "hypereyes_jax", *words]
        return subprocess.run(whole, capture_output=True, text=True, timeout=60, check=False)

    assert run("--version").stdout.strip() == hypereyes_jax.__version__
    assert run("no-command").returncode == 2


def test_a_command_that_failed_does_not_wait_for_threads_that_never_end():
    program = (
        "import sys, threading, time\n"
        "from hypereyes_jax.cli import main as cli\n"
        "cli._PATIENCE = 0.2\n"
        "threading.Thread(target=time.sleep, args=[60]).start()\n"
        "sys.argv[1:] = ['no-command']\n"
        "sys.exit(cli.main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "there is no command `no-command`" in done.stderr


@pytest.mark.parametrize(
    ("typed", "meant"), [("trian", "`launch`"), ("evla", "`eval`"), ("search_store", "`search-store`")]
)
def test_a_mistyped_command_is_answered_with_the_closest(typed, meant, capsys):
    assert cli.main([typed]) == 2
    shown = capsys.readouterr().err
    if typed == "trian":  # nothing is close
        assert "Did you mean" not in shown
    else:
        assert f"Did you mean {meant}?" in shown


def test_a_mistyped_option_is_answered_with_the_closest(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", "somewhere", "--questons", "3"])
    assert stop.value.code == 2
    assert "--questions" in capsys.readouterr().err


def test_help_of_a_command_is_its_help(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["help", "report"])
    assert stop.value.code == 0
    assert "hypereyes report" in capsys.readouterr().out


def test_help_alone_lists_the_commands(capsys):
    assert cli.main(["help"]) == 0
    assert "quickstart" in capsys.readouterr().out


def test_options_are_read_off_the_help():
    options = command_words("report").options
    assert {"--help", "--out", "--questions"} <= set(options)
    assert all(option.startswith("--") for option in options)


def complete(words):
    """What bash offers for the last of the words."""
    data = CommandWords(["--help"], {"check": ["--help", "--rows"], "convert": ["--format", "--help"]})
    commands = {"rl": CommandWords(["--help", "--out", "--questions"]), "report": CommandWords(["--out"]), "data": data}
    source = script("bash", commands)
    line = " ".join(f"'{word}'" for word in words)
    program = (
        f"{source}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _hypereyes; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split()


def test_bash_completes_commands_then_options():
    assert complete(["hypereyes", "r"]) == ["rl", "report"]
    assert complete(["hypereyes", "help", "re"]) == ["report"]
    assert complete(["hypereyes", "rl", "--o"]) == ["--out"]
    assert complete(["hypereyes", "report", "--"]) == ["--out"]


def test_bash_completes_the_second_word_of_a_command_and_then_its_options():
    assert complete(["hypereyes", "data", ""]) == ["check", "convert"]
    assert complete(["hypereyes", "data", "c"]) == ["check", "convert"]
    assert complete(["hypereyes", "data", "check", "--"]) == ["--help", "--rows"]
    assert complete(["hypereyes", "data", "convert", "rows", "--f"]) == ["--format"]
    assert complete(["hypereyes", "data", "--"]) == ["--help"]


def test_fish_is_told_each_option_after_its_command():
    data = CommandWords(["--help"], {"check": ["--rows"], "show": ["--out"]})
    _, rl, parts, check, show = script("fish", {"rl": CommandWords(["--out"]), "data": data}).splitlines()
    seen = "complete -c hypereyes -n '__fish_seen_subcommand_from"
    assert rl == f"{seen} rl' -l 'out'"
    assert parts.endswith("data; and not __fish_seen_subcommand_from check show' -a 'check show'")
    assert check == f"{seen} data; and __fish_seen_subcommand_from check' -l 'rows'"
    assert show == f"{seen} data; and __fish_seen_subcommand_from show' -l 'out'"


@pytest.mark.parametrize(
    ("command", "part", "option"),
    [
        ("data", "check", "--rows"),
        ("data", "convert", "--shard-mib"),
        ("search-store", "prune", "--older-than-days"),
        ("launch", "slurm", "--nodes"),
        ("launch", "restart", "--restarts"),
        ("study", "ablations", "--seeds"),
        ("completion", "zsh", "--help"),
    ],
)
def test_the_second_words_of_the_commands_are_known_with_their_options(command, part, option):
    assert option in command_words(command).parts[part]


def test_a_command_without_second_words_has_none():
    assert command_words("rl").parts == {}


def test_a_dry_run_prints_the_settings_and_writes_nothing(tmp_path, capsys):
    words = ["eval", BASE, "--out", str(tmp_path / "run"), "--temperature", "0.25", "--dry-run"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "temperature=0.25" in shown
    assert "a model of" in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--checkpoint", "--questions"])
def test_a_dry_run_names_an_input_that_is_missing(option, tmp_path, capsys):
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"text": "Which flag?", "answers": ["Chad"]}\n')
    given = {"--checkpoint": BASE, "--questions": str(questions), option: str(tmp_path / "gone")}
    words = [word for pair in given.items() for word in pair]
    assert cli.main(["rl", *words, "--out", str(tmp_path / "run"), "--dry-run"]) == 2
    assert f"{tmp_path / 'gone'}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_dry_run_names_an_argument_as_the_usage_does(tmp_path, capsys):
    """It has no option: `--checkpoint` of `eval` could not be typed."""
    assert cli.main(["eval", str(tmp_path / "gone"), "--out", str(tmp_path / "run"), "--dry-run"]) == 2
    assert f"CHECKPOINT {tmp_path / 'gone'}: there is no such directory." in " ".join(capsys.readouterr().err.split())
    assert cli.main(["report", str(tmp_path / "gone"), "--dry-run"]) == 2
    assert f"RUN {tmp_path / 'gone'}: there is no such" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "option", ["questions", "eval-questions", "demonstrations", "checkpoint", "policy", "teacher", "vanilla-teacher"]
)
def test_a_study_of_files_that_are_not_there_begins_nothing(tmp_path, capsys, option):
    gone, out = str(tmp_path / "gone"), str(tmp_path / "out")
    assert cli.main(["study", "budget", f"--{option}", gone, "--out", out]) == 2
    assert gone in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main(["study", "budget", f"--{option}", gone, "--out", out, "--list"]) == 0  # to be run elsewhere


def test_a_dry_run_asks_for_no_file_that_is_yet_to_come_and_opens_no_bucket(tmp_path, capsys):
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"text": "Which flag?", "answers": ["Chad"]}\n')
    notice = ["--stop.notice-file", str(tmp_path / "notice")]
    words = ["rl", "--checkpoint", BASE, "--questions", str(questions), *notice, "--dry-run"]
    assert cli.main(words) == 0, capsys.readouterr().err
    words = ["export", "--run", "gs://bucket/run", "--out", str(tmp_path / "model"), "--dry-run"]
    assert cli.main(words) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("rl --checkpoint {base} --questions {rows} --reward.functions gone.py:f", "there is no file gone.py"),
        ("rl --checkpoint {base} --questions {rows} --sizes.learner.loss gspoo", "gspoo"),
        ("rl --checkpoint {base} --questions {rows} --sizes.episode.tools zooom", "zooom"),
        ("rl hypereyes_8b_rl --checkpoint {base} --questions {rows}", "needs a search service"),
        ("rl --checkpoint {base} --questions {rows} --judge.object os:getcwd", "not a judge"),
        (
            "rl --checkpoint {base} --questions {rows} --search.service object --search.backend os:getcwd",
            "not a search",
        ),
        ("eval {base} --questions {rows} --judge.object os:getcwd", "not a judge"),
        ("ask Which? --model-url http://127.0.0.1:9/v1 --model m --episode.tools zooom", "zooom"),
        ("collect {rows} --model-url http://127.0.0.1:9/v1 --model m --settings.episode.tools zooom", "zooom"),
        ("study seeds --jobs 2 --recipe 30b", "--jobs is for the miniature"),
        ("study ablations --seeds 0 1 0", "--seeds names a seed twice"),
        ("ask {rows} --model-url http://127.0.0.1:9/v1 --model m", "and no question follows it"),
        ("ask Which? --model-url http://127.0.0.1:9/v1", "the name of a model there"),
        ("ask Which? --checkpoint {base} --model m", "the name of a model there"),
        ("sft --checkpoint {base} --demonstrations {rows} --sizes.learner.optimizer.name lions", "lions"),
        ("eval {base} --questions {rows} --metrics gone.py:f", "there is no file gone.py"),
        ("eval {base} --benchmark fvqaa --data {rows} --search.service serpapi", "there is no benchmark 'fvqaa'"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would_refuse(words, why, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "q", "question": "Which?", "answer": "red"}\n')
    command = words.format(base=BASE, rows=rows).split()
    assert cli.main([*command, "--out", str(tmp_path / "run"), "--dry-run"]) == 2
    assert why in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_a_server_refuses_tools_that_no_request_could_be_answered_with(capsys):
    words = ["serve", BASE, "--mode", "agent", "--episode.tools", "zooom", "--dry-run"]
    assert cli.main(words) == 2
    assert "zooom" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--search.service serpapi", "--episode.max-rounds 3"])
def test_settings_of_the_agent_are_refused_where_the_bare_policy_is_served(option, capsys):
    assert cli.main(["serve", BASE, *option.split(), "--dry-run"]) == 2
    assert "add --mode agent" in capsys.readouterr().err


def test_a_dry_run_counts_the_rows_of_the_data(tmp_path, capsys):
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"text": "Which flag?", "answers": ["Chad"]}\n' * 3)
    words = ["rl", "--checkpoint", BASE, "--questions", str(questions), "--dry-run"]
    code = cli.main(words)
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert "3 rows" in shown.out


def test_help_breaks_lines_where_the_terminal_ends_and_not_where_the_source_does(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    with contextlib.suppress(SystemExit):
        cli.main(["sft", "--help"])
    assert "  with its file, number and cure). (default: skip)" in capsys.readouterr().out  # two lines of the source


@pytest.mark.skipif(
    [*map(int, version("tyro").split("."))] < [1, 0, 16], reason="tyro before 1.0.16 names no arguments in its usage"
)
def test_usage_names_what_a_command_takes(capsys):
    for command, words in (
        ("push", "RUN REPOSITORY"),
        ("rl", "[RECIPE]"),
        ("plan", "RECIPE"),
        ("eval", "CHECKPOINT"),
        ("curate", "FILE"),
        ("ask", "[IMAGE ...] QUESTION"),
        ("mcp", "[IMAGE ...]"),
        ("synth-wikidata", "FILE [FILE ...]"),
    ):
        with contextlib.suppress(SystemExit):
            cli.main([command, "--help"])
        usage = capsys.readouterr().out.split("\n\n")[0]
        assert words in usage, usage
