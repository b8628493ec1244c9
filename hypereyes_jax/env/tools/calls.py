"""Running one call of a tool, and what the record and the model are told of it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from hypereyes_jax.env.actions import ToolCall
from hypereyes_jax.env.grounded_search import failure_text
from hypereyes_jax.env.tools.arguments import argument_fault
from hypereyes_jax.env.tools.types import SearchingEpisode, Tool, ToolError, ToolReply
from hypereyes_jax.env.types import Account, FatalSearchError, Invocation, SearchError


@dataclass(frozen=True)
class Called:
    """A call of a tool that is over."""

    invocations: tuple[Invocation, ...]
    images: tuple[Image.Image, ...] = ()
    failures: tuple[SearchError, ...] = ()


async def call_tool(tool: Tool, call: ToolCall, episode: SearchingEpisode) -> Called:
    """Runs a call, and charges the tool's price where the episode's backend keeps an account.

    Where a tool fails on arguments that are not those of its schema, the model is told what is wrong with them. A call
    that failed is not paid for, except one that was too slow, which the service may have charged.

    Raises:
      FatalSearchError: the tool says that no later call can work, or the spending cap is reached.
      Exception: whatever else the tool raises but ToolError and SearchError, which is a defect of it.
    """
    start = time.perf_counter()
    query = json.dumps(dict(call.arguments), ensure_ascii=False)
    invocation = Invocation(call.name, query if len(query) <= 300 else f"{query[:299]}…", sent=tool.is_search)
    account = episode.backend if tool.price and isinstance(episode.backend, Account) else None
    payment = "" if account is None else await account.charge(tool.price)
    try:
        reply = await tool.call(call.arguments, episode)
    except ToolError as error:
        if account is not None:
            await account.refund(payment, tool.price)
        return Called((replace(invocation, error=str(error) or "the call failed", sent=False),))
    except FatalSearchError:
        raise
    except SearchError as error:
        await _refund(account, payment, tool.price, [error])
        failure = replace(invocation, error=failure_text(error), sent=tool.is_search and error.sent)
        return Called((replace(failure, seconds=time.perf_counter() - start),), failures=(error,))
    except Exception:
        fault = argument_fault(tool.parameters, call.arguments)
        if not fault:
            raise
        if account is not None:
            await account.refund(payment, tool.price)
        return Called((replace(invocation, error=fault, sent=False),))
    _check(tool, reply)
    if reply.failures and all(invocation.error for invocation in reply.invocations):
        await _refund(account, payment, tool.price, reply.failures)
    texts = [part for part in reply.parts if isinstance(part, str)]
    images = tuple(part for part in reply.parts if not isinstance(part, str))
    if reply.invocations:
        # What was searched stands in the tool's own record; the text is shown with the first of it.
        first, *others = reply.invocations
        return Called((replace(first, text="\n".join(texts) or first.text), *others), images, reply.failures)
    invocation = replace(invocation, text="\n".join(texts) or "done", seconds=time.perf_counter() - start)
    return Called((invocation,), images)


async def _refund(account: Account | None, payment: str, price: float, failures: Sequence[SearchError]) -> None:
    """Takes the payment for a call back that failed, unless some of it was too slow."""
    if account is not None and not any(failure.kind == "timeout" for failure in failures):
        await account.refund(payment, price)


def _check(tool: Tool, reply: object) -> None:
    """Raises TypeError for what is not a `ToolReply`, or one whose parts can't be shown."""
    if not isinstance(reply, ToolReply):
        raise TypeError(
            f"the tool {tool.name} returned a {type(reply).__name__}, where a ToolReply is needed: "
            "return ToolReply((text,))"
        )
    if isinstance(reply.parts, str) or not all(isinstance(part, str | Image.Image) for part in reply.parts):
        raise TypeError(
            f"the parts of what the tool {tool.name} returned must be a tuple of texts and PIL images, like (text,), "
            f"not {reply.parts!r:.80}"
        )
