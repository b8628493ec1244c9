"""Whether each tool call of a conversation has a result, and each result a call, as far as that can be told.

OpenAI's and Anthropic's messages give each call an id that its result repeats. Without ids only a call that nothing
follows, and a result that follows no call, can be told: one message may hold the results of several calls.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypereyes_jax.data.sources.call_notations import holds_call
from hypereyes_jax.data.sources.conversations import SourceMessage
from hypereyes_jax.data.sources.turn_checks import (
    CALL_WITHOUT_RESULT,
    RESULT_WITHOUT_CALL,
    RESULTS_OUT_OF_ORDER,
    shows_result,
)
from hypereyes_jax.data.sources.types import BadRow


def check_pairs(messages: Sequence[SourceMessage]) -> None:
    """Raises BadRow for a call without a result that a turn of the model comes after, and for a result without a call.

    The last call of a conversation needs no result: it is what the conversation ends with.
    """
    with_role = any(message.role == "tool" for message in messages)
    at = 0
    while at < len(messages):
        turn = _run(messages, at, of_model=True)
        shown = _run(messages, at + len(turn), of_model=False)
        at += len(turn) + len(shown)
        _check_results(turn, shown)
        if turn and at < len(messages):
            _check_calls(turn, shown, with_role)


def _run(messages: Sequence[SourceMessage], start: int, of_model: bool) -> Sequence[SourceMessage]:
    """The messages from `start` on up to the first that is not one of the model's, or is one."""
    stop = start
    while stop < len(messages) and (messages[stop].role == "assistant") is of_model:
        stop += 1
    return messages[start:stop]


def _check_results(turn: Sequence[SourceMessage], shown: Sequence[SourceMessage]) -> None:
    results = [message for message in shown if message.role == "tool"]
    if results and not any(message.calls or holds_call(message.text) for message in turn):
        where = "a turn of the model that holds no call" if turn else "no turn of the model"
        raise BadRow(
            RESULT_WITHOUT_CALL,
            f"the result of a tool in it follows {where}: write the call that it is of, or leave the result out",
        )
    ids = _ids_of_calls(turn)
    strangers = [each for message in results for each in message.ids if each not in ids]
    if ids and strangers:
        raise BadRow(
            RESULT_WITHOUT_CALL,
            f"a tool result in it is of the call {strangers[0][:60]!r}, and the calls before it are {_listed(ids)}: "
            "give the result the id of its call",
        )
    named = [each for message in results for each in message.ids]
    if ids and len(set(ids)) == len(ids) and named != sorted(named, key=ids.index):  # others stand between them
        raise BadRow(
            RESULTS_OUT_OF_ORDER,
            "its tool results come in another order than the calls they are of, and others' messages between them: "
            "write them in the order of the calls",
        )


def _check_calls(turn: Sequence[SourceMessage], shown: Sequence[SourceMessage], with_role: bool) -> None:
    """Arguments: what the model is shown after the turn; whether results have the role tool in this conversation."""
    ids = _ids_of_calls(turn)
    results = [message for message in shown if message.role == "tool"]
    if results:
        named = {each for message in results for each in message.ids}
        missing = [each for each in ids if each not in named]
        if missing and all(message.ids for message in results):
            raise BadRow(
                CALL_WITHOUT_RESULT,
                f"no tool result in it is of the call {missing[0][:60]!r}: add it, as the role tool with this "
                "tool_call_id, or leave the call out",
            )
    # As pictures or as a marked text, results may be what the user says.
    elif (ids or (with_role and any(map(_calls, turn)))) and not any(map(_may_be_result, shown)):
        raise BadRow(
            CALL_WITHOUT_RESULT,
            "a turn of the model follows its tool call, and no tool result stands between them: add it, as a message "
            "with the role tool, or leave the call out",
        )


def _ids_of_calls(turn: Sequence[SourceMessage]) -> list[str]:
    return [each for message in turn for each in message.ids]


def _calls(message: SourceMessage) -> bool:
    return bool(message.calls) or "</tool_call>" in message.text


def _may_be_result(message: SourceMessage) -> bool:
    return shows_result(message.text) or any(not isinstance(part, str) for part in message.parts)


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(repr(each[:60]) for each in ids[:5]) + (", ..." if len(ids) > 5 else "")
