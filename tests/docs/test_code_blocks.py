"""Every Python block of the documentation runs; the blocks of a page share their names, as a reader types them."""

import ast
import asyncio
import inspect
import re
import types
from importlib import resources
from pathlib import Path

import pytest

BASE = str(resources.files("hypereyes_jax.assets") / "base")
DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if re.search(r"^```python$", page.read_text(), re.M))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
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
