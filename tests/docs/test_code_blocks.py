"""Every Python block of the documentation runs; the blocks of a page share their names, as a reader types them.

A block that needs a server or another project's trainer is a `{code-block} python`, and runs in that one's own test.
"""

import ast
import asyncio
import inspect
import re
import types
from importlib import resources
from pathlib import Path

import pytest

BASE = str(resources.files("hypereyes_jax.assets") / "base")
ROOT = Path(__file__).parents[2]
ALL = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]  # README.md: tests/cli/test_readme.py
PAGES = [page for page in ALL if re.search(r"^```python$", page.read_text(), re.M)]
ELSEWHERE = {  # pages, and the tests that run what stands in a `{code-block} python` of theirs
    "docs/guides/your_trainer.md": ("tests/env/adapters/test_skyrl.py", "tests/env/adapters/test_tinker.py"),
    "docs/serving.md": ("tests/rollout/openai_api/test_server.py",),
}


def place(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", ALL, ids=place)
def test_no_python_of_a_page_is_left_out(page):
    for language, block in re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(), re.M | re.S):
        if language == "{code-block} python":
            assert all(page.name in (ROOT / test).read_text() for test in ELSEWHERE[place(page)])
        elif language != "python":
            assert not re.search(r"^(import \w+|from [\w.]+ import \w+)", block, re.M), block


@pytest.mark.parametrize("page", PAGES, ids=place)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Qwen").mkdir()
    for name in ("Qwen3-VL-2B-Instruct", "Qwen/Qwen3-VL-2B-Instruct"):
        (tmp_path / name).symlink_to(BASE)  # where a page loads a checkpoint, the small one stands in
    names = {"__name__": "__main__"}
    for match in re.finditer(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S):
        line = page.read_text()[: match.start()].count("\n") + 1
        code = compile("\n" * line + match[1], str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if code.co_flags & inspect.CO_COROUTINE:  # a notebook awaits at the top, too
            asyncio.run(types.FunctionType(code, names)())
        else:
            exec(code, names)
