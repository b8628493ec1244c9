"""Checkpoints on the Hugging Face hub, down and up: with the cache, token and offline mode of `huggingface_hub`."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hypereyes_jax.errors import UserError
from hypereyes_jax.models.storage import is_url

_ID = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")
# The page of a model, as a browser has its address.
_PAGE = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<repository>\w[\w.-]*/\w[\w.-]*)(?:/tree/(?P<revision>[\w./-]+?))?/?"
)
_WANTED = ("*.safetensors", "*.json", "*.jinja", "merges.txt", "LICENSE*", "README.md")  # never a pickle


class HubError(UserError):
    """A repository of the hub that can't be read or written. The message names it and says what to do."""


class HubId(NamedTuple):
    """A repository like "Qwen/Qwen3-VL-2B-Instruct", and a branch, tag or commit of it."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"


def hub_id(name: str) -> HubId | None:
    """`org/name[@revision]`, or the address of a model's page, as a hub id; None if it does not read as one."""
    match = _ID.fullmatch(name) or _PAGE.fullmatch(name)
    return HubId(match["repository"], match["revision"]) if match else None


def locate(checkpoint: str | os.PathLike[str]) -> Path | str:
    """Where a checkpoint lies: a local path or a URL as they are, a hub id as the directory it is downloaded to.

    What exists on this machine is never looked up on the hub.

    Raises HubError if a hub id can't be had.
    """
    name = os.fspath(checkpoint)
    if not name.strip():
        raise HubError("the checkpoint is an empty text. Give a directory, a hub id or a URL.")
    repository = hub_id(name)
    if repository is None and is_url(name):
        return name
    if repository is None or Path(name).exists():
        return Path(name)
    return _downloaded(repository)


@functools.cache  # a branch may move on: a process keeps to what it saw first
def _downloaded(wanted: HubId) -> Path:
    return download(wanted)


def download(
    wanted: HubId, *, files: Sequence[str] = _WANTED, endpoint: str | None = None, cache: Path | None = None
) -> Path:
    """The directory in the cache that holds a model's files, fetched if they are not there.

    Of several processes on a host one downloads, and the others wait for it.

    Args:
      files: names or patterns of those that are fetched.
      endpoint, cache: default to what `huggingface_hub` is set to (HF_ENDPOINT, HF_HOME).

    Raises HubError.
    """
    from huggingface_hub import snapshot_download

    with _one_of_this_host(str(wanted)), _explained(wanted):
        return Path(
            snapshot_download(
                wanted.repository,
                revision=wanted.revision,
                allow_patterns=list(files),
                endpoint=endpoint,
                cache_dir=cache,
            )
        )


def upload(folder: Path, target: HubId, message: str, *, private: bool = True, endpoint: str | None = None) -> str:
    """Commits a directory to a repository, which is made if it does not exist: the commit's address.

    Raises HubError.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint)
    with _explained(target):
        api.create_repo(target.repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=target.repository,
            folder_path=folder,
            revision=target.revision,
            commit_message=message,
            ignore_patterns=[".*", "*.part"],
        )
    return str(commit.commit_url)


@contextlib.contextmanager
def _explained(target: HubId) -> Iterator[None]:
    """The hub's failures as HubError."""
    from huggingface_hub import errors

    network = getattr(errors, "HTTPError", OSError)  # of the HTTP client that this version of the library uses
    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(
            f"{target} is gated: ask for access on its page, then set HF_TOKEN to a token of that account."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"there is no directory {target}, and no such model on the hub that you may read. Check the name; for a "
            "private one set HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{target.repository} has no revision {target.revision!r} on the hub.") from error
    except errors.LocalEntryNotFoundError as error:
        raise HubError(
            f"there is no directory {target}, and the hub can't be reached (or HF_HUB_OFFLINE is set) while the cache "
            "does not hold it. Check the network, or give a directory."
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, network, OSError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise HubError(f"{target} can't be had from the hub or written to it: {why}.") from error


@contextlib.contextmanager
def _one_of_this_host(name: str) -> Iterator[None]:
    """One process of this user and host at a time."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"hypereyes-hub-{os.getuid()}-{digest}.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
