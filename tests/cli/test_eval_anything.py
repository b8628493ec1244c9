"""`hypereyes eval` of checkpoints of other sizes, and of models that are served elsewhere."""

import json
import shutil
from dataclasses import replace
from importlib import resources

import pytest
from aiohttp import web

from hypereyes_jax import miniature
from hypereyes_jax.cli import main as cli
from hypereyes_jax.cli.eval import EvalConfig, _sizes
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.search.config import SearchConfig
from hypereyes_jax.eval.metrics import cost_aware_score
from hypereyes_jax.files import read_json
from tests.serving import served

CALL = '<reason>look</reason><tool_call>{"name": "text_search", "arguments": {"input": ["Norway"]}}</tool_call>'


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [{"id": f"q{n}", "question": f"Number {n}?", "answer": "Oslo"} for n in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Endpoint:
    """Searches once, then answers; counts 100 tokens a message that it is sent, and 7 that it writes."""

    def __init__(self, usage=True, fails=0):
        self.bodies, self.usage, self.fails = [], usage, fails

    async def __call__(self, request):
        body = await request.json()
        self.bodies.append(body)
        if self.fails:
            self.fails -= 1
            return web.json_response({"error": {"message": "no such request"}}, status=422)
        count = len(body["messages"])
        text = CALL if count == 2 else "<reason>so</reason><answer>Oslo</answer>"
        reply = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
        if self.usage:
            reply["usage"] = {"prompt_tokens": 100 * count, "completion_tokens": 7}
        return web.json_response(reply)


def asked(endpoint, out, questions, *words):
    with served("/v1/chat/completions", endpoint) as url:
        command = ["eval", f"{url}/v1", "--model", "m", "--questions", str(questions), "--out", str(out)]
        return cli.main([*command, "--search.transport", "in-process", *words])


def test_a_served_model_has_a_cost_aware_score_of_tokens_that_count_once(tmp_path, questions):
    endpoint = Endpoint()
    assert asked(endpoint, tmp_path / "out", questions, "--samples", "2", "--top-p", "0.5") == 0
    summary = read_json(tmp_path / "out" / "benchmarks.json")["model"]["questions"]
    assert (summary["n"], summary["samples"], summary["accuracy"], summary["any_correct"]) == (6, 2, 1.0, 1.0)
    # The second prompt, of 4 messages, holds the first turn; 7 tokens were written after it.
    assert summary["kilo_tokens"] == pytest.approx(0.407)
    assert summary["turns"] == 1
    assert summary["cas"] == pytest.approx(cost_aware_score(1.0, 0.407, 1.0))
    assert {(body["temperature"], body["top_p"], body["max_tokens"]) for body in endpoint.bodies} == {(0.8, 0.5, 256)}
    assert len(endpoint.bodies) == 12
    (first, *_) = (tmp_path / "out" / "trajectories-model-questions.jsonl").read_text().splitlines()
    assert json.loads(first)["tokens"] == 407
    assert json.loads(first)["sampled_tokens"] == 14


def test_what_a_served_model_failed_at_is_asked_again_and_nothing_else(tmp_path, questions):
    assert asked(Endpoint(fails=1), tmp_path / "out", questions, "--in-flight", "1") == 0
    results = tmp_path / "out" / "benchmark-model-questions.jsonl"
    before = results.read_text()
    assert len(before.splitlines()) == 2
    again = Endpoint()
    with served("/v1/chat/completions", again) as url:
        command = ["eval", f"{url}/v1", "--model", "m", "--questions", str(questions)]
        assert cli.main([*command, "--search.transport", "in-process", "--out", str(tmp_path / "out")]) == 0
    assert len(again.bodies) == 2
    assert results.read_text().startswith(before)


def test_a_server_that_counts_no_tokens_ends_the_evaluation(tmp_path, questions, capsys):
    assert asked(Endpoint(usage=False), tmp_path / "out", questions) == 2
    assert "reports no token counts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("here --model m --questions f", "--model needs the URL of a server"),
        ("http://h/v1 --model m", "a served model needs a source of questions"),
        ("http://h/v1 --model m --questions f --mesh gpu", "--mesh has no effect on a served model"),
        ("here --samples 2", "--samples needs a source of questions"),
        ("here --recipe hypereyes_9b_rl", "no recipe 'hypereyes_9b_rl' for rl"),
        ("here --dtype float16", "must be float32 or bfloat16"),
        ("here --slots 0", "--slots must be at least 1"),
        ("here --bad-rows refuse", "--bad-rows says how a source is read, and these questions are made here"),
        ("here --questions f --box-units pixel", "--box-units says how demonstrations are read, and eval reads"),
        ("here --questions f --turn-format native", "--turn-format says how demonstrations are read"),
        ("here --questions f --choices", "--choices is for benchmarks"),
        ("here --benchmark fvqa --data d --search.service serpapi --choices", "--choices would be ignored: fvqa"),
        ("here --questions f --subset g", "--subset is for benchmarks"),
        ("here --data g", "--data is for benchmarks"),
        (
            "here --benchmark fvqa --search.service retriever --columns text=q",
            "--columns would be ignored: fvqa is read",
        ),
        ("here --questions q.jsonl --name org/model", "--name 'org/model' is part of the names of files: give one"),
    ],
)
def test_what_would_be_ignored_is_refused(words, message, capsys):
    assert cli.main(["eval", *words.split()]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_sizes_are_the_recipes_unless_given():
    small = _sizes(EvalConfig("c"))
    assert (small.slots, small.context, small.turn_tokens, small.learner.compute_dtype) == (32, 1024, 256, "float32")
    paper = _sizes(EvalConfig("c", search=SearchConfig(service="retriever")))
    assert (paper.context, paper.turn_tokens, paper.max_pixels) == (38_912, 1_524, 1_200 * 32**2)
    assert (paper.learner.compute_dtype, paper.episode.max_turns) == ("bfloat16", 9)
    given = EvalConfig(
        "c", recipe="hypereyes_2b_rl", context=4096, slots=3, dtype="float32", max_new_tokens=9,
        episode=EpisodeConfig(max_turns=19, max_rounds=18),
    )  # fmt: skip
    found = _sizes(given)
    engine = found.engine()
    assert (engine.slots, engine.context, engine.kv, engine.max_prompt_tokens) == (3, 4096, "float32", 4096)
    assert (found.turn_tokens, found.episode.max_turns, found.episode.max_rounds) == (9, 19, 18)


@pytest.mark.slow
def test_a_checkpoint_is_evaluated_with_a_recipes_images_and_turns_on_a_mesh(tmp_path, questions):
    from importlib import resources

    base = resources.files("hypereyes_jax.assets") / "base"
    sizes = "--recipe hypereyes_2b_rl --mesh auto --context 2048 --slots 2 --max-new-tokens 8 --dtype float32"
    words = f"eval {base} --questions {questions} --search.transport in-process {sizes}".split()
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    first = (tmp_path / "out" / "benchmark-model-questions.jsonl").read_text()
    assert len(first.splitlines()) == 3
    assert cli.main([*words, "--out", str(tmp_path / "other"), "--slots", "1", "--sampling-seed", "1000"]) == 0

    def answers(text):
        return {row["id"]: (row["answer"], row["tokens"]) for row in map(json.loads, text.splitlines())}

    # the seed is a question's, whoever is asked with it
    assert answers((tmp_path / "other" / "benchmark-model-questions.jsonl").read_text()) == answers(first)


def test_forced_budgets_stand_beside_the_policy_s_own_stop_in_one_plot(tmp_path, questions):
    endpoint = Endpoint()
    assert asked(endpoint, tmp_path / "out", questions, "--budgets", "0", "1", "4") == 0
    summaries = read_json(tmp_path / "out" / "benchmarks.json")
    turns = {name: rows["questions"]["turns"] for name, rows in summaries.items()}
    assert turns == {"model-0-rounds": 0, "model-1-rounds": 1, "model-4-rounds": 1, "model": 1}
    plot = (tmp_path / "out" / "budgets-model-questions.svg").read_text()
    assert "own stop" in plot
    assert plot.count("<circle") == 4 + 2  # points, and the legend's


def test_budgets_without_questions_of_a_source_are_refused(tmp_path, capsys):
    assert cli.main(["eval", "gone", "--budgets", "1", "2", "--out", str(tmp_path / "out")]) == 2
    assert "--budgets needs --questions or --benchmark" in capsys.readouterr().err


def test_tools_and_a_prompt_of_one_s_own_are_used_kept_and_compared(tmp_path, questions, capsys):
    own = tmp_path / "own.py"
    own.write_text("def write(facts):\n    return 'Mine: ' + ', '.join(tool.name for tool in facts.tools)\n")
    words = ["--episode.tools", "zoom", "--episode.system", f"@{own}:write", "--search.service", "world"]
    endpoint = Endpoint()
    assert asked(endpoint, tmp_path / "out", questions, *words) == 0
    assert endpoint.bodies[0]["messages"][0]["content"] == "Mine: image_search, text_search, zoom"
    (kept,) = read_json(tmp_path / "out" / "objects.json")
    assert (kept["role"], kept["name"], len(kept["sha256"])) == ("prompt", f"{own}:write", 64)
    own.write_text(own.read_text().replace("Mine", "Yours"))
    capsys.readouterr()
    assert asked(Endpoint(), tmp_path / "out", questions, *words) == 2
    assert "source of the prompt" in capsys.readouterr().err


def test_questions_of_one_s_own_code_are_kept_and_compared(tmp_path, capsys):
    own = tmp_path / "own.py"
    own.write_text("rows = [{'id': 'q', 'question': 'Which?', 'answer': 'Oslo'}]\n")
    assert asked(Endpoint(), tmp_path / "out", f"{own}:rows") == 0
    (kept,) = read_json(tmp_path / "out" / "objects.json")
    assert (kept["role"], kept["name"], len(kept["sha256"])) == ("data source", f"{own}:rows", 64)
    own.write_text(own.read_text().replace("Oslo", "Rome"))
    assert asked(Endpoint(), tmp_path / "out", f"{own}:rows") == 2
    assert "source of the data source" in capsys.readouterr().err


OWN_BENCHMARK = """
from hypereyes_jax.data.benchmarks import BenchmarkSpec, any_row

SPEC = BenchmarkSpec("ours", "Ours", files=("**/ours*.jsonl",), convert=any_row, published="exact")
BAD = BenchmarkSpec("ours", "Ours", files=(), convert=any_row, rule="gentle")
NAMED = BenchmarkSpec("../ours", "Ours", files=(), convert=any_row)
"""


def test_a_benchmark_of_one_s_own_is_asked_scored_and_kept(tmp_path, capsys):
    own, data, out = tmp_path / "own.py", tmp_path / "data", tmp_path / "out"
    own.write_text(OWN_BENCHMARK)
    data.mkdir()
    rows = [{"id": f"q{n}", "question": f"Number {n}?", "answer": ["Oslo", "Rome"][n]} for n in range(2)]
    (data / "ours-1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with served("/v1/chat/completions", Endpoint()) as url:
        command = ["eval", f"{url}/v1", "--model", "m", "--data", str(data), "--search.transport", "in-process"]
        assert cli.main([*command, "--benchmark", f"{own}:SPEC", "--out", str(out)]) == 0
        summary = read_json(out / "benchmarks.json")["model"]["ours"]
        assert (summary["n"], summary["accuracy"], summary["published"]) == (2, 0.5, 0.5)
        assert "benchmark" in {each["role"] for each in read_json(out / "objects.json")}
        for name, why in {
            "BAD": "rule must be one of",
            "NAMED": "part of file names",
            "any_row": "is a function",
        }.items():
            capsys.readouterr()
            assert cli.main([*command, "--benchmark", f"{own}:{name}", "--out", str(tmp_path / name)]) == 2
            assert why in " ".join(capsys.readouterr().err.split())


def test_a_rule_that_is_given_replaces_that_of_the_recipe_and_no_other():
    sizes = _sizes(EvalConfig("model", episode=EpisodeConfig(max_rounds=4, delegate_rounds=2)))
    assert sizes.episode == replace(miniature.EPISODE, max_rounds=4, delegate_rounds=2)
    assert _sizes(EvalConfig("model")).episode == miniature.EPISODE
    paper = _sizes(EvalConfig("model", recipe="hypereyes_8b_rl", episode=EpisodeConfig(max_turns=19, max_rounds=18)))
    assert paper.episode == EpisodeConfig(max_turns=19, max_rounds=18)


def test_metrics_of_one_s_own_are_filed_for_each_answer_and_printed(tmp_path, questions, capsys):
    own = tmp_path / "own.py"
    own.write_text("def letters(result, correct):\n    return len(result.answer or '') + 0.5 * bool(correct)\n")
    out = tmp_path / "out"
    assert asked(Endpoint(), out, questions, "--metrics", f"{own}:letters") == 0
    assert "questions: letters " in capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "benchmark-model-questions.jsonl").read_text().splitlines()]
    wanted = [len(row["answer"] or "") + 0.5 * row["correct"] for row in rows]
    assert [row["own"]["metric_letters"] for row in rows] == wanted
    (summary,) = read_json(out / "benchmarks.json")["model"].values()
    assert summary["own"] == {"metric_letters": pytest.approx(sum(wanted) / len(wanted))}
    assert "metric" in {each["role"] for each in read_json(out / "objects.json")}

    broken = tmp_path / "broken.py"
    broken.write_text("def letters(result, correct):\n    return float('nan')\n")
    assert asked(Endpoint(), tmp_path / "nan", questions, "--metrics", f"{broken}:letters") == 2
    assert "a metric failed on a made-up episode" in " ".join(capsys.readouterr().err.split())


def test_results_of_questions_that_have_changed_since_are_not_taken_for_theirs(tmp_path, questions, capsys):
    assert asked(Endpoint(), tmp_path / "out", questions) == 0
    questions.write_text(questions.read_text().replace("Number 2", "The other number 2"))
    assert asked(Endpoint(), tmp_path / "out", questions) == 2
    assert "was started with other data: the content of questions" in capsys.readouterr().err


def test_results_of_a_checkpoint_that_was_replaced_are_not_taken_for_its_own(tmp_path, monkeypatch, capsys):
    class ModelWasLoadedError(Exception):
        pass

    def load(*arguments, **options):
        raise ModelWasLoadedError

    monkeypatch.setattr("hypereyes_jax.eval.policy.load_policy", load)
    shutil.copytree(str(resources.files("hypereyes_jax.assets") / "base"), tmp_path / "model")
    command = ["--questions", "1", "--out", str(tmp_path / "out")]
    with pytest.raises(ModelWasLoadedError):
        cli.main(["eval", str(tmp_path / "model"), *command])
    (tmp_path / "out" / "metrics.json").write_text("{}")  # as if it had been evaluated
    shutil.move(tmp_path / "model", tmp_path / "moved")
    with pytest.raises(ModelWasLoadedError):
        cli.main(["eval", str(tmp_path / "moved"), *command])
    config = tmp_path / "moved" / "config.json"
    config.write_text(config.read_text().replace("{", '{"note": "trained further",', 1))
    assert cli.main(["eval", str(tmp_path / "moved"), *command]) == 2
    assert "was started with other data: the content of checkpoint" in capsys.readouterr().err
