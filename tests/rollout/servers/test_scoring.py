"""Scores of whole conversations from servers that answer as documented, and from ones that do not."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import numpy as np
import pytest
from aiohttp import web

from hypereyes_jax.env.types import FatalSearchError
from hypereyes_jax.processing import ContextChunk
from hypereyes_jax.rollout.episodes import GeneratorError
from hypereyes_jax.rollout.servers.scoring import _conversation, score_conversations
from hypereyes_jax.rollout.servers.server import PromptMismatch
from hypereyes_jax.rollout.servers.sglang import SGLangServer
from hypereyes_jax.rollout.servers.vllm import VLLMServer
from tests.learner.small import CONFIG, PACK, trajectory
from tests.serving import SGLangMimic, VLLMMimic, mimicked

PIXELS = {"min_pixels": PACK.min_pixels, "max_pixels": PACK.max_pixels}
KINDS = {"sglang": (SGLangMimic, SGLangServer), "vllm": (VLLMMimic, VLLMServer)}
VICTIM = 1  # of the conversations
TALKS = [trajectory(seed, images=2) for seed in range(3)]


def serving(kind, **options):
    mimic, client = KINDS[kind]
    mimic = mimic(CONFIG, PIXELS)
    # tells tokens and places apart, and a token's score from those beside it
    mimic.scores = lambda prompt, *_: -0.01 * np.array(prompt[1:]) - 0.001 * np.arange(len(prompt) - 1)
    return mimicked(mimic, client, **{"attempts": 2, **options})


def wanted(mimic, chunks):
    """What the server's rule gives for the sampled tokens."""
    tokens, sampled = [], []
    for chunk in chunks:
        given = isinstance(chunk, ContextChunk)
        sizes = iter(mimic.client.visual_tokens(image) for image in chunk.images) if given else None
        for token in chunk.tokens.tolist():
            n = next(sizes) if given and token == CONFIG.image_token_id else 1
            tokens += [token] * n
            sampled += [not given] * n
    return mimic.scores(tokens)[np.array(sampled[1:])]


def is_victim(body):
    sent = body.get("input_ids") or body["token_ids"]
    return sent[:3] == TALKS[VICTIM][0].tokens[:3].tolist()


def spoiling(mimic, change):
    """Changes the replies to the victim."""
    mimic.spoil = lambda reply: change(reply) if is_victim(mimic.requests[-1]) else None


async def only_the_victim_failed(mimic, kind, why, **options):
    out = await score_conversations(mimic.client, TALKS, **options)
    for number, (found, chunks) in enumerate(zip(out, TALKS, strict=True)):
        if number != VICTIM:
            np.testing.assert_allclose(found, wanted(mimic, chunks), rtol=1e-6)
    assert type(out[VICTIM]) is kind
    assert why in str(out[VICTIM])


@pytest.mark.parametrize("kind", KINDS)
async def test_sampled_tokens_get_their_own_scores_and_requests_the_documented_form(kind):
    async with serving(kind) as mimic:
        mimic.failures = 1  # passes, so the request is made again
        out = await score_conversations(mimic.client, TALKS)
        for found, chunks in zip(out, TALKS, strict=True):
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, wanted(mimic, chunks), rtol=1e-6)
        assert len(mimic.requests) == 4
        assert await score_conversations(mimic.client, []) == []
    for body in mimic.requests:
        if kind == "sglang":
            assert (body["return_logprob"], body["logprob_start_len"], len(body["image_data"])) == (True, 0, 3)
            assert body["sampling_params"]["max_new_tokens"] == 0
        else:
            assert (body["sampling_params"]["prompt_logprobs"], len(body["content_parts"])) == (0, 3)


def sglang_rows(change):
    """A change of `input_token_logprobs`: rows of [log-prob, token, text], the first without a log-prob."""
    return "sglang", lambda reply: change(reply["meta_info"]["input_token_logprobs"])


def vllm_rows(change):
    """A change of `prompt_logprobs`: an entry a token, {id: {"logprob": ...}}, the first one None."""
    return "vllm", lambda reply: change(reply["prompt_logprobs"])


def put(logp):
    """Makes it the log-prob of the last token, which was sampled."""

    def sglang(rows):
        rows[-1][0] = logp

    def vllm(rows):
        rows[-1] = {name: {"logprob": logp if name != "299" else -0.01} for name in rows[-1]}

    return sglang_rows(sglang), vllm_rows(vllm)


def shifted(rows):
    rows.insert(1, rows.pop())


def without_images_sglang(reply):
    rows = [row for row in reply["meta_info"]["input_token_logprobs"] if row[1] != 0]
    reply["meta_info"].update(prompt_tokens=len(rows), input_token_logprobs=rows)


def without_images_vllm(reply):
    kept = [t != CONFIG.image_token_id for t in reply["prompt_token_ids"]]
    for name in ("prompt_token_ids", "prompt_logprobs"):
        reply[name] = [row for row, keep in zip(reply[name], kept, strict=True) if keep]
    reply["usage"]["prompt_tokens"] = sum(kept)


def ids_shifted(rows):
    ids = [row[1] for row in rows]
    for row, token in zip(rows, [*ids[1:], ids[0]], strict=True):
        row[1] = token


async def requests_when_one_is_spoilt(fault, error, why):
    kind, change = fault
    async with serving(kind) as mimic:
        spoiling(mimic, change)
        await only_the_victim_failed(mimic, error, why, in_flight=1)
        return len(mimic.requests)


def cut(rows):
    del rows[-2:]


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (("sglang", without_images_sglang), "resized or expanded"),
        (("vllm", without_images_vllm), "resized or expanded"),
        (sglang_rows(ids_shifted), "the server scored"),
        (vllm_rows(shifted), "the server scored"),
        (("vllm", lambda reply: reply["prompt_token_ids"].reverse()), "another prompt"),
        (sglang_rows(cut), "tokens, not the"),
        (vllm_rows(cut), "tokens, not the"),
        (("vllm", lambda reply: reply.update(prompt_logprobs=None)), "tokens, not the"),
    ],
)
async def test_scores_of_other_tokens_are_a_mismatch_of_that_conversation_alone(fault, why):
    requests = await requests_when_one_is_spoilt(fault, PromptMismatch, why)
    assert requests == 3  # the same question would get the same answer


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        *((fault, "nan is not a log-prob") for fault in put(float("nan"))),
        *((fault, "0.5 is not a log-prob") for fault in put(0.5)),
        *((fault, "-9999.0 is not a log-prob") for fault in put(-9999.0)),  # vLLM's minus infinity
        *((fault, "-1 is not a log-prob") for fault in put("-1")),
        *((fault, "None is not a log-prob") for fault in put(None)),
        *((fault, "False is not a log-prob") for fault in put(False)),
        (("sglang", lambda reply: reply["meta_info"].pop("input_token_logprobs")), "documented form"),
        (("sglang", lambda reply: reply["meta_info"].update(input_token_logprobs=7)), "documented form"),
        (("sglang", lambda reply: reply.update(meta_info=[])), "documented form"),
        (("vllm", lambda reply: reply.update(prompt_logprobs=[7] * len(reply["prompt_logprobs"]))), "documented form"),
        (("vllm", lambda reply: reply.update(usage=None)), "documented form"),
    ],
)
async def test_what_no_log_prob_can_be_is_refused_for_that_conversation_alone(fault, why):
    await requests_when_one_is_spoilt(fault, GeneratorError, why)


async def test_a_log_prob_above_zero_by_rounding_counts_as_zero():
    fault, _ = put(1e-5)
    async with serving("sglang") as mimic:
        spoiling(mimic, fault[1])
        out = await score_conversations(mimic.client, TALKS, in_flight=1)
        assert out[VICTIM][-1] == 0


@pytest.mark.parametrize(
    ("response", "tries"),
    [
        (lambda: web.Response(status=500, body=b"\xff out of memory"), 2),
        (lambda: web.Response(text="<html>", content_type="application/json"), 2),
        (lambda: web.Response(text="<html>", content_type="text/html"), 2),
        (lambda: web.json_response([1, 2]), 2),
        (lambda: web.Response(status=400, text="too long"), 1),  # lasts: not asked again
    ],
)
async def test_failing_replies_are_tried_again_if_they_may_pass_and_then_counted(response, tries):
    async def before(body):
        return response() if is_victim(body) else None

    async with serving("sglang") as mimic:
        mimic.before = before
        await only_the_victim_failed(mimic, GeneratorError, "failed 2 times" if tries == 2 else "refused (400)")
        assert len(mimic.requests) == 2 + tries


@pytest.mark.parametrize("words", ["insufficient credits", "Invalid API key"])
@pytest.mark.parametrize("status", [400, 403, 404, 422])
async def test_an_account_that_is_used_up_and_a_key_taken_back_can_never_work_whatever_the_status(status, words):
    async with serving("vllm") as mimic:
        talk, _ = _conversation(mimic.client, TALKS[0])
        await mimic.client.score(talk)

        async def before(_):
            return web.json_response({"error": {"message": words}}, status=status)

        mimic.before = before
        with pytest.raises(FatalSearchError, match=words):
            await mimic.client.score(talk)


async def test_a_hanging_request_times_out_and_a_deadline_ends_them_all():
    async def before(body):
        if is_victim(body):
            await asyncio.sleep(60)

    for options, deadline, why in (({"timeout": 0.5}, 60, "failed 2 times: TimeoutError"), ({}, 2, "within 2 s")):
        async with serving("vllm", **options) as mimic:
            mimic.before = before
            began = time.monotonic()
            await only_the_victim_failed(mimic, GeneratorError, why, deadline=deadline)
            assert time.monotonic() - began < 15


async def test_a_server_that_is_gone_fails_all_and_raises_nothing():
    async with serving("vllm") as mimic:
        mimic.client.url = "http://127.0.0.1:1"
        assert [type(each) for each in await score_conversations(mimic.client, TALKS)] == [GeneratorError] * 3


async def test_no_more_than_in_flight_are_under_way():
    under_way = most = 0

    async def before(_):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.02)
        under_way -= 1

    async with serving("sglang") as mimic:
        mimic.before = before
        await score_conversations(mimic.client, TALKS * 3, in_flight=2)
    assert most == 2


async def test_an_image_token_that_the_policy_wrote_is_never_sent():
    prompt, turn, *rest = TALKS[VICTIM]
    tokens = turn.tokens.copy()
    tokens[0] = CONFIG.image_token_id
    async with serving("sglang") as mimic:
        (out,) = await score_conversations(mimic.client, [(prompt, replace(turn, tokens=tokens), *rest)])
        assert isinstance(out, PromptMismatch)
        assert mimic.requests == []
