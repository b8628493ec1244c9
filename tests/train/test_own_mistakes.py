"""Objects of a user's own as newcomers write them: each works, or is refused in one sentence before a run begins."""

import asyncio
import re
import sys

import pytest

from hypereyes_jax.configs.objects import load_object
from hypereyes_jax.configs.training import LearnerConfig, OptimizerConfig
from hypereyes_jax.data.sources.objects import object_rows
from hypereyes_jax.data.sources.source import open_questions
from hypereyes_jax.env import Episode, EpisodeConfig, Question
from hypereyes_jax.env.judging.own import own_judge
from hypereyes_jax.env.own_prompt import check_prompt
from hypereyes_jax.env.search.services import own_backend
from hypereyes_jax.env.tools.named import named_tools
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.own_metrics import load_metrics
from hypereyes_jax.learner.advantage import load_advantage
from hypereyes_jax.learner.optax_pieces import named_optimizer, named_schedule
from hypereyes_jax.learner.reward import load_rewards, made_up_group
from hypereyes_jax.learner.token_loss import load_loss

KINDS = {
    "reward": lambda name: load_rewards([name]),
    "advantage": load_advantage,
    "loss": lambda name: load_loss(name, LearnerConfig()),
    "metric": lambda name: load_metrics([name]),
    "prompt": lambda name: check_prompt(f"@{name}", EpisodeConfig()),
    "judge": lambda name: asyncio.run(own_judge(name)),
    "tool": lambda name: named_tools([name]),
    "search backend": own_backend,
    "optimizer": lambda name: named_optimizer(OptimizerConfig(name=name), lambda step: 0.1, lambda tree: tree),
    "schedule": lambda name: named_schedule(OptimizerConfig(schedule=name)),
    "source of rows": object_rows,
}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a file and gives the name of its object `mine`."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(source, file="own.py"):
        (tmp_path / file).write_text(source)
        return f"{tmp_path / file}:mine"

    return write


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("def mine(:\n", r"own.py, which was named as the {kind}, is not valid Python: .*own.py, line 1: "),
        ("import no_such_package_here\n", r"imports no_such_package_here, which is not there: install it"),
        ("from . import beside\n", r"no relative imports: write import name"),
        ("def mime(*_):\n    pass\n", r"own.py has no mine, which was named as the {kind}. Did you mean mime\?"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_in_a_sentence(kind, source, why, written):
    with pytest.raises(UserError, match=why.format(kind=kind)):
        KINDS[kind](written(source))


def test_a_file_may_import_the_one_beside_it(written):
    written("WEIGHT = 3\n", "beside_own.py")
    name = written("from beside_own import WEIGHT\nmine = WEIGHT\n")
    assert load_object(name, "reward").value == 3
    del sys.modules["beside_own"]


CALLED = ["reward", "advantage", "loss", "metric", "prompt", "judge", "optimizer", "schedule", "source of rows"]


@pytest.mark.parametrize("kind", CALLED)
def test_what_an_object_raises_is_told_with_its_line(kind, written):
    with pytest.raises(UserError, match=r"KeyError: 'gone' \(.*own.py, line 2\)"):
        KINDS[kind](written("def mine(*_):\n    return {}['gone']\n" if kind != "source of rows" else
                            "def mine():\n    return {}['gone']\n"))  # fmt: skip


@pytest.mark.parametrize("kind", [kind for kind in CALLED if kind != "source of rows"])
def test_a_wrong_signature_is_told(kind, written):
    with pytest.raises(UserError, match=r"argument"):
        KINDS[kind](written("def mine(*, weight):\n    return 1\n"))


@pytest.mark.parametrize("kind", ["reward", "advantage", "loss", "metric", "prompt"])
@pytest.mark.filterwarnings("error")
def test_an_async_function_where_none_is_awaited_is_told(kind, written):
    with pytest.raises(UserError, match="is async; write def, not async def"):
        KINDS[kind](written("async def mine(*_):\n    return 1\n"))


@pytest.mark.parametrize("kind", ["reward", "advantage", "loss", "metric", "prompt", "judge", "tool", "search backend"])
def test_a_class_that_needs_arguments_is_told(kind, written):
    with pytest.raises(UserError, match="is a class that can't be made without arguments"):
        KINDS[kind](written("class mine:\n    def __init__(self, weight):\n        pass\n"))


@pytest.mark.parametrize(
    ("kind", "body", "why"),
    [
        ("reward", "return 1.0", r"gave shape \(\) for 4 rollouts"),
        ("reward", "return ['a'] * 4", "could not convert"),
        ("reward", "return [float('nan')] * 4", "not finite"),
        ("reward", "return None", "reward"),
        ("advantage", "return args[0][:2]", r"gave shape \(2,\)"),
        ("advantage", "return args[0] * float('nan')", "not finite"),
        ("loss", "return args[0].logp_BT.sum()", "gave shape"),
        ("metric", "return 'many'", "could not convert"),
        ("metric", "return float('nan')", "not a finite number"),
        ("prompt", "return 5", "gave a int, where a string is needed"),
        ("judge", "return 'yes'", "where True, False or None is needed"),
        ("judge", "return [True, False]", "where True, False or None is needed"),
        ("optimizer", "return 3", "an optimizer is an optax.GradientTransformation"),
        ("schedule", "return 3", "a schedule is a function of the step"),
    ],
)
def test_a_result_of_the_wrong_kind_is_told(kind, body, why, written):
    with pytest.raises(UserError, match=why):
        KINDS[kind](written(f"def mine(*args):\n    {body}\n"))


TOOL = """
from hypereyes_jax.env.tools.types import ToolReply

class mine:
    name, description, is_search, price = "mine", "Does it.", False, 0.0
    parameters = {"type": "object", "properties": {}}

    %s
"""


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ("def call(self, arguments, episode): return ToolReply(('x',))", "is not async; write async def"),
        (
            "async def call(self, arguments): return ToolReply(('x',))",
            "its call must take the arguments and the episode",
        ),
        ("def run(self, arguments, episode): pass", "it needs name, description"),
    ],
)
def test_a_tool_that_cannot_be_called_is_told_at_the_start(call, why, written):
    with pytest.raises(UserError, match=why):
        named_tools([written(TOOL % call)])


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("'17'", r" a str, where a ToolReply is needed: return ToolReply\(\(text,\)\)"),
        ("ToolReply('17')", "must be a tuple of texts and PIL images"),
        ("ToolReply((17,))", "must be a tuple of texts and PIL images"),
    ],
)
async def test_what_a_tool_may_not_return_is_told_by_its_name(reply, why, written, tmp_path):
    name = written(TOOL % f"async def call(self, arguments, episode): return {reply}")
    episode = Episode(Question("q", "?", (), ("x",)), None, EpisodeConfig(tools=(name,)))
    with pytest.raises(TypeError, match=f"the tool mine returned.*{why}"):
        await episode.step('<tool_call>{"name": "mine", "arguments": {}}</tool_call>')


def test_a_search_backend_whose_methods_are_not_async_is_told(written):
    source = (
        "class mine:\n    def text_search(self, query, k): return []\n    def image_search(self, image, k): return []\n"
    )
    with pytest.raises(UserError, match=r"text_search of .* is not async; write async def"):
        KINDS["search backend"](written(source))


def test_classes_whose_objects_are_called_serve_as_well_as_functions(written):
    reward = load_rewards([written("class mine:\n    def __call__(self, group): return group.accuracy_G * 2\n")])
    rewards, metrics = reward(made_up_group())
    assert rewards.tolist() == [2, 2, 0, -1]
    assert metrics == {"reward_mine": pytest.approx(0.75)}


def test_questions_come_from_a_file_s_object(written):
    rows = "[{'id': 'a', 'question': 'Which?', 'answers': ['Chad']}]"
    for source in (f"mine = {rows}\n", f"def mine(): return {rows}\n"):
        name = written(source, f"rows_{len(source)}.py")
        with open_questions(name) as questions:
            assert [question.answers for question in questions] == [("Chad",)]


@pytest.mark.parametrize("value", ["'text'", "{'a': 1}", "iter([1])", "5"])
def test_what_holds_no_rows_is_told(value, written):
    with pytest.raises(UserError, match=re.escape("where a sequence of rows is needed (len and [index])")):
        object_rows(written(f"mine = {value}\n"))
