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
from hypereyes_jax.env.search.config import SearchConfig
from hypereyes_jax.env.search.own_backend import own_backend
from hypereyes_jax.env.search.resilience import ResilientBackend
from hypereyes_jax.env.search.services import check_search, connected
from hypereyes_jax.env.tools.named import named_tools
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.own_metrics import load_metrics
from hypereyes_jax.learner.advantage import load_advantage
from hypereyes_jax.learner.optax_pieces import named_optimizer, named_schedule
from hypereyes_jax.learner.reward import load_rewards, made_up_group
from hypereyes_jax.learner.token_loss import load_loss
from hypereyes_jax.train.method import OwnObjects
from hypereyes_jax.train.rl_call import rl

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
        ("from sys import nothing_here\n", r"can't be imported: .*cannot import name 'nothing_here'.*own.py, line 1"),
        ("import sys\nsys.exit(0)\n", r"can't be imported: SystemExit: 0 .*own.py, line 2.*under if __name__"),
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
        ("reward", "return ['a'] * 4", "real numbers are needed, not <U1"),
        ("reward", "return [float('nan')] * 4", "not finite"),
        ("reward", "return None", "reward"),
        ("reward", "args[0].accuracy_G[:] = 1; return args[0].accuracy_G", r"read-only \(.*own.py, line 2\)"),
        ("advantage", "args[0][:] = 1; return args[0]", r"read-only \(.*own.py, line 2\)"),
        ("advantage", "return args[0][:2]", r"gave shape \(2,\)"),
        ("advantage", "return args[0] * float('nan')", "not finite"),
        ("loss", "return args[0].logp_BT.sum()", "gave shape"),
        ("loss", "return args[0].logp_BT * float('nan')", "is not finite"),
        ("loss", "return args[0].old_logp_BT", "it would train nothing"),
        (
            "loss",
            "return args[0].logp_BT if args[0].logp_BT.sum() > 0 else 0",
            r"bool\[\]. \(.*own.py, line 2\). It must",
        ),
        ("metric", "return 'many'", "could not convert"),
        ("metric", "return float('nan')", "not a finite number"),
        ("prompt", "return 5", "gave a int, where a string is needed"),
        ("judge", "return 'yes'", "where True, False or None is needed"),
        ("judge", "return [True, False]", "where True, False or None is needed"),
        ("optimizer", "return 3", "an optimizer is an optax.GradientTransformation"),
        ("schedule", "return 3", "a schedule is a function of the step"),
        ("schedule", "return lambda: 0.1", "failed at step 0.* takes 0 positional arguments"),
        ("schedule", "return lambda step: 'fast'", "failed at step 0"),
        ("schedule", "return lambda step: 0.1 if step < 5 else 0.01", "failed at step 0.*work under jax.jit"),
        ("schedule", "return lambda step: step / 0", "gave nan at step 0"),
        ("schedule", "return lambda step: [0.1]", r"gave \[0.1\] at step 0"),
        ("schedule", "return lambda step: -0.1", "gave -0.1.* at step 0"),
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


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("name = 'two words'", "'two words' is not a valid name of a tool"),
        ("name = 3", "3 is not a valid name of a tool"),
        ("description = None", "the description of the tool mine must be a text"),
        ("is_search = 'no'", "is_search of the tool mine must be True or False"),
        ("price = '0.01'", "the price of the tool mine must be a number of dollars"),
        ("price = float('nan')", "the price of the tool mine must be a number of dollars"),
        ("parameters = None", "of type object: None has no"),
        ("parameters = {'type': 'object', 'properties': []}", '"properties" must be an object'),
        ("parameters = {'type': 'object', 'properties': {'a': 'string'}}", "the property 'a' must be described by an"),
        ("parameters = {'type': 'object', 'required': 'a'}", '"required" must be a list of names'),
        ("parameters = {'type': 'object', 'default': {1}}", "can't be written as JSON"),
    ],
)
def test_a_tool_that_no_prompt_could_list_is_told_at_the_start(line, why, written):
    call = f"{line}\n    async def call(self, arguments, episode): return ToolReply(('x',))"
    with pytest.raises(UserError, match=f"own.py:mine is not a tool: .*{why}"):
        named_tools([written(TOOL % call)])


def test_no_tool_is_named_as_a_search_is(written):
    call = "name = 'text_search'\n    async def call(self, arguments, episode): return ToolReply(('x',))"
    with pytest.raises(UserError, match="can't be named text_search: that is one of the two searches"):
        Episode(Question("q", "?", (), ("x",)), None, EpisodeConfig(tools=(written(TOOL % call),)))


BACKEND = """
from dataclasses import dataclass
from hypereyes_jax.env.types import SearchHit

@dataclass(frozen=True, slots=True)
class mine:
    index: str = "pages"

    %s

    async def image_search(self, image, k): return []
"""


@pytest.mark.parametrize(
    ("search", "why"),
    [
        ("def text_search(self, query, k): return []", r"text_search of .* is not async; write async def"),
        (
            "async def text_search(self, query, k): yield 1",
            r"text_search of .* is an async generator: return the whole",
        ),
        ("async def text_search(self, query): return []", r"its text_search must take \(query, k\)"),
        ("async def text_search(self, *, query, k): return []", r"its text_search must take \(query, k\)"),
        ("text_search = None", "is not a search backend"),
    ],
)
def test_a_search_backend_that_cannot_be_asked_is_told_before_one_is_made(search, why, written):
    name = written(BACKEND.replace('index: str = "pages"', "index: str") % search)
    with pytest.raises(UserError, match=why):
        check_search(SearchConfig(service="object", backend=name))


async def test_a_frozen_backend_has_its_place_and_source_as_the_name_of_its_engine(written):
    name = written(BACKEND % "async def text_search(self, query, k): return [SearchHit('a', query, 1.0)]")
    async with connected(SearchConfig(service="object", backend=name)) as (backend, _):
        assert backend.engine.startswith(f"{name}:")
        assert [hit.content for hit in await backend.text_search("q", 1)] == ["q"]


@pytest.mark.parametrize(
    ("reply", "what"),
    [
        ("None", "a NoneType"),
        ("'found'", "a str"),
        ("[{'title': 'a', 'content': 'b', 'score': 1}]", "a list with a dict in it"),
        ("[SearchHit('a', 'b', 1), None]", "a list with a NoneType in it"),
        ("(hit for hit in ())", "a generator"),
    ],
)
async def test_what_a_search_backend_may_not_return_is_told_by_its_name(reply, what, written):
    backend = own_backend(written(BACKEND % f"async def text_search(self, query, k): return {reply}"))
    for asked in (backend, ResilientBackend(backend)):
        episode = Episode(Question("q", "?", (), ("x",)), asked, EpisodeConfig())
        with pytest.raises(
            TypeError, match=f"text_search of mine returned {what}, where a list of SearchHit is needed"
        ):
            await episode.step('<tool_call>{"name": "text_search", "arguments": {"input": ["a"]}}</tool_call>')


@pytest.mark.parametrize(
    ("verdict", "read"), [("np.True_", True), ("np.float32(0)", False), ("1", True), ("None", None)]
)
async def test_a_verdict_is_one_of_three_whatever_its_type(verdict, read, written):
    judge = await own_judge(written(f"import numpy as np\ndef mine(question, answer):\n    return {verdict}\n"))
    assert await judge.judge(Question("q", "?", (), ("x",)), "x") is read


class Backend:
    def text_search(self, query, k): ...
    def image_search(self, image, k): ...


@pytest.mark.parametrize(
    ("objects", "why"),
    [
        ({"rewards": len}, r"OwnObjects.rewards must be a list, also of a single one: \[reward\]"),
        ({"tools": Backend()}, r"OwnObjects.tools must be a list"),
        ({"metrics": "depth"}, r"OwnObjects.metrics must be a list"),
        ({"tools": [Backend]}, r"the class Backend: give an object of it, Backend\(\)"),
        ({"search": Backend}, r"the class Backend: give an object of it"),
    ],
)
def test_objects_given_in_python_as_something_else_are_told(objects, why):
    with pytest.raises(UserError, match=why):
        OwnObjects(**objects)


@pytest.mark.parametrize(
    ("objects", "why"),
    [
        ({"search": Backend()}, "text_search of the Backend is not async"),
        ({"tools": [Backend()]}, "is not a tool: it needs name"),
        ({"judge": lambda question, answer: "yes"}, "where True, False or None is needed"),
        ({"rewards": [lambda group: 1.0]}, r"gave shape \(\) for 4 rollouts"),
    ],
)
def test_a_python_call_tells_what_cannot_be_used_before_anything_is_written(objects, why, tmp_path):
    with pytest.raises(UserError, match=why):
        rl(tmp_path / "gone", [], tmp_path / "run", own=OwnObjects(**objects))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verdict", ["'no'", "0.5", "[]", "{'correct': False}"])
async def test_what_is_no_verdict_is_told_in_the_middle_of_a_run_too(verdict, written):
    source = f"def mine(question, answer):\n    return True if answer == 'Paris' else {verdict}\n"
    judge = await own_judge(written(source))
    with pytest.raises(TypeError, match="where True, False or None is needed"):
        await judge.judge(Question("q", "?", (), ("x",)), "x")


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
