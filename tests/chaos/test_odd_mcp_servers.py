"""MCP servers that are odd in hundreds of ways: their tools give a result, a typed failure or a mistake of the user's.

`python -m tests.chaos.test_odd_mcp_servers 300 SEED SECONDS` prints the counts.
"""

import asyncio
import sys
import time
from collections import Counter

import pytest

from hypereyes_jax.env.prompts import system_prompt
from hypereyes_jax.env.tools.mcp_client import mcp_tools
from hypereyes_jax.env.tools.types import ToolError
from hypereyes_jax.env.types import SearchError
from hypereyes_jax.errors import UserError

SECONDS = 3.0  # that a client waits, for a server that is an interpreter to start


async def outcome(seed: int, seconds: float = SECONDS) -> str:
    """What became of one server. What is raised here as none of our own errors is a fault."""
    from mcp import StdioServerParameters

    server = StdioServerParameters(command=sys.executable, args=["-m", "tests.chaos.odd_mcp_server", str(seed)])
    try:
        async with mcp_tools(server, ["look"], seconds=seconds) as tools:
            for style in ("full", "native"):
                system_prompt(style, "unit", 3, tools).encode()
            try:
                reply = await tools[0].call({"query": "x"}, None)
            except (ToolError, SearchError) as error:
                words = str(error)
                return "failure" if words and len(words) < 600 and words.isprintable() else f"words: {words[:200]!r}"
            texts = [part for part in reply.parts if isinstance(part, str)]
            return "result" if sum(map(len, texts)) <= 20_100 else f"{sum(map(len, texts))} characters"
    except UserError as error:
        words = str(error)
        return "mistake" if len(words) < 600 and words.isprintable() else f"words: {words[:200]!r}"


async def run(count: int, seed: int, seconds: float = SECONDS) -> tuple[Counter, list[str]]:
    """Counts of what became of so many servers, and the faults in words."""
    counts, faults = Counter(), []
    for number in range(seed, seed + count):
        began = time.monotonic()
        try:
            async with asyncio.timeout(4 * seconds + 30):
                became = await outcome(number, seconds)
        except TimeoutError:
            became = "hang"
        except Exception as error:
            became = f"traceback: {type(error).__name__}: {error}"[:300]
        counts[became.partition(":")[0]] += 1
        if became not in ("result", "failure", "mistake"):
            faults.append(f"{number}: {became} ({time.monotonic() - began:.1f} s)")
    return counts, faults


@pytest.mark.chaos
async def test_hundreds_of_odd_servers_are_results_typed_failures_or_mistakes():
    counts, faults = await run(300, 0, 20.0)
    print(dict(counts))
    assert faults == []


if __name__ == "__main__":
    all_counts: Counter = Counter()
    for start in range(int(sys.argv[1])):
        total, wrong = asyncio.run(run(1, int(sys.argv[2]) + start, float(sys.argv[3])))
        all_counts += total
        print("".join(f"{each}\n" for each in wrong), end="", flush=True)
    print(f"{all_counts.total()} servers: {dict(all_counts)}")
