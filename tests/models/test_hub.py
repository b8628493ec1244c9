"""Hub ids, against a server on loopback that speaks the hub's endpoints."""

from __future__ import annotations

import functools
import multiprocessing
import sys
from types import SimpleNamespace

import huggingface_hub
import jax
import numpy as np
import pytest

from hypereyes_jax.errors import UserError
from hypereyes_jax.models import hub as hub_module
from hypereyes_jax.models.hub import HubError, HubId, download, hub_id, locate, upload
from hypereyes_jax.models.qwen3_vl import load_hf, save_hf
from hypereyes_jax.models.storage import FsspecDirectory
from tests.models.hub_server import Hub, serving
from tests.models.torch_reference import CONFIGS
from tests.random_weights import random_params


@pytest.fixture
def model(tmp_path):
    config = CONFIGS["dense"]
    params = random_params(config)
    save_hf(tmp_path / "model", config, params)
    files = {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}
    return params, files | {"pytorch_model.bin": b"never", "chat_template.jinja": b"x"}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Qwen/Qwen3-VL-2B-Instruct", HubId("Qwen/Qwen3-VL-2B-Instruct")),
        ("org/name@v1.0", HubId("org/name", "v1.0")),
        ("org/name@refs/pr/1", HubId("org/name", "refs/pr/1")),
        ("runs/sft/model", None),
        ("/org/name", None),
        ("./org/name", None),
        ("../name", None),
        ("name", None),
        ("org/name@", None),
        ("https://huggingface.co/Qwen/Qwen3-VL-2B-Instruct", HubId("Qwen/Qwen3-VL-2B-Instruct")),
        ("https://huggingface.co/org/name/tree/v1.0/", HubId("org/name", "v1.0")),
        ("https://huggingface.co/datasets/org/name", None),
        ("https://example.org/org/name", None),
    ],
)
def test_what_reads_as_a_hub_id(name, found):
    assert hub_id(name) == found


def test_a_model_is_fetched_once_without_its_pickles(model, tmp_path, monkeypatch):
    params, files = model
    with serving(Hub(files)) as hub:
        here = functools.partial(download, endpoint=hub.endpoint, cache=tmp_path / "cache")
        monkeypatch.setattr(hub_module, "download", here)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        hub_module._downloaded.cache_clear()
        _, loaded = load_hf("org/name")
        jax.tree.map(np.testing.assert_array_equal, loaded, params)
        assert sorted(hub.fetched) == sorted({*files} - {"pytorch_model.bin"})
        assert "Bearer hf_secret" in hub.tokens
        hub_module._downloaded.cache_clear()
        again = locate("org/name@main")
        assert len(hub.fetched) == len(files) - 1, "a file in the cache was fetched again"
    # without the server the cache is enough
    hub_module._downloaded.cache_clear()
    assert locate("org/name@main") == again


def test_what_exists_here_is_not_looked_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.setattr(hub_module, "download", lambda wanted: pytest.fail("asked the hub"))
    assert str(locate("org/name")) == "org/name"
    assert locate("gs://bucket/model") == "gs://bucket/model"


@pytest.mark.parametrize(
    ("options", "wanted", "message"),
    [
        ({"gated": True}, HubId("org/name"), "org/name is gated: ask for access on its page, then set HF_TOKEN"),
        ({}, HubId("org/other"), r"no directory org/other, and no such model on the hub .* set HF_TOKEN"),
        ({}, HubId("org/name", "v9"), r"org/name has no revision 'v9' on the hub\."),
    ],
)
def test_what_cannot_be_had_has_one_sentence(model, tmp_path, options, wanted, message):
    with serving(Hub(model[1], **options)) as hub, pytest.raises(HubError, match=message) as caught:
        download(wanted, endpoint=hub.endpoint, cache=tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_without_network_there_is_one_sentence(tmp_path):
    with pytest.raises(HubError, match=r"hub can't be reached .* give a directory") as caught:
        download(HubId("org/name"), endpoint="http://127.0.0.1:9", cache=tmp_path)
    assert "\n" not in str(caught.value)


def test_offline_mode_is_kept_to(model, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with serving(Hub(model[1])) as hub, pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        download(HubId("org/name"), endpoint=hub.endpoint, cache=tmp_path)
    assert not hub.tokens, "the hub was asked"


def test_one_process_of_a_host_downloads(model, tmp_path):
    with serving(Hub(model[1])) as hub:
        context = multiprocessing.get_context("spawn")
        # not a function of this file: the processes would import all that it does
        here = {"endpoint": hub.endpoint, "cache": tmp_path / "cache"}
        pair = [context.Process(target=download, args=(HubId("org/name"),), kwargs=here) for _ in range(2)]
        for process in pair:
            process.start()
        for process in pair:
            process.join(120)
        assert [process.exitcode for process in pair] == [0, 0]
        assert len(hub.fetched) == len(set(hub.fetched)) == len(model[1]) - 1


def test_a_directory_is_committed(model, tmp_path):
    with serving(Hub()) as hub:
        (tmp_path / "model" / ".hidden").write_text("no")
        url = upload(tmp_path / "model", HubId("org/name"), "Step 3", endpoint=hub.endpoint)
        assert url == f"{hub.endpoint}/org/name/commit/{hub.SHA}"
    assert hub.committed == {name: model[1][name] for name in ("config.json", "model.safetensors")}
    assert hub.summary == "Step 3"
    assert hub.created.get("private") is True or hub.created.get("visibility") == "private"


def test_a_commit_that_fails_has_one_sentence(model, tmp_path):
    with pytest.raises(HubError, match="org/name can't be had from the hub or written to it") as caught:
        upload(tmp_path / "model", HubId("org/name"), "Step 3", endpoint="http://127.0.0.1:9")
    assert "\n" not in str(caught.value)


def test_an_empty_name_of_a_checkpoint_is_told():
    with pytest.raises(HubError, match="the checkpoint is an empty text"):
        locate("")


@pytest.mark.parametrize("name", ["httpx", "httpx2"])
def test_a_failure_of_the_hubs_own_client_is_one_sentence(monkeypatch, name):
    client = SimpleNamespace(TransportError=type("TransportError", (Exception,), {}))
    monkeypatch.setitem(sys.modules, name, client)

    def fail(path):
        raise client.TransportError("no network")

    directory = FsspecDirectory(SimpleNamespace(isfile=fail), "org/name", "hf://org/name/")
    with pytest.raises(UserError, match=r"can't read hf://org/name/config.json \(TransportError: no network\)"):
        directory.exists("config.json")
