"""An artifact to the Hugging Face hub, as one commit, after saying what goes there."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from beit.atomic_io import write_file
from beit.claim import claim_output
from beit.errors import BeitError, ConfigError, ResourceError
from beit.weights.fetch import HUB_ID, first_line, no_bars_in_logs
from beit.weights.model_card import CARD, model_card
from beit.weights.store import CONFIG, WEIGHTS, artifact_of, read_artifact

logger = logging.getLogger(__name__)

LICENSE = re.compile(r"[a-z0-9][\w.-]*")
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN, with a token that may write"


class Pushed(NamedTuple):
    """Where a model went."""

    reference: str
    """What `beit.load` takes: hf:owner/name@commit, or hf:owner/name where nothing was uploaded."""
    files: dict[str, int]
    """Bytes by the name of the file."""


def push_to_hub(
    artifact: str | Path,
    repository: str,
    *,
    public: bool = False,
    license: str = "",  # noqa: A002
    update: bool = False,
    message: str = "",
    dry_run: str | Path = "",
) -> Pushed:
    """Upload a run's model, or an artifact, with a model card, to `owner/name` on the hub.

    The repository is made, private unless `public`; one that exists is refused, or with `update`
    gets one more commit (and stays as public as it is). `license` is an identifier of the hub's
    list, e.g. apache-2.0. `dry_run` names a folder to write all of it to instead: nothing is sent.
    Uploaded are the weights, `config.json` and `README.md`, nothing else. Raises CheckpointError
    for a damaged artifact, ConfigError for what the hub refuses, ResourceError if it fails.
    """
    name = repository_name(repository)
    if license and not LICENSE.fullmatch(license):
        raise ConfigError(
            f"'{license}' is not an identifier of a licence",
            remedy="write one of https://huggingface.co/docs/hub/repositories-licenses, e.g. mit",
        )
    found = read_artifact(artifact)  # once: a run may publish another in its place meanwhile
    artifact_of(found)  # nothing is published that cannot be used
    card = model_card(found, name, license=license).encode()
    contents = {CONFIG: found.config, WEIGHTS: found.weights, CARD: card}
    sizes = {file: len(content) for file, content in contents.items()}
    listed = ", ".join(f"{file} ({size:,} bytes)" for file, size in sizes.items())
    if dry_run:
        _write(contents, Path(dry_run))
        logger.info("would go to hf:%s: %s", name, listed)
        return Pushed(f"hf:{name}", sizes)
    visible = "as it is there" if update else "public" if public else "private"
    logger.info("to hf:%s, %s: %s", name, visible, listed)
    commit = _upload(contents, name, public, update, message or "Upload a model of beit")
    return Pushed(f"hf:{name}@{commit}", sizes)


def repository_name(text: str) -> str:
    """`owner/name` of what the user wrote. Raises ConfigError for anything else."""
    parts = HUB_ID.fullmatch(text if text.startswith("hf:") else f"hf:{text}")
    if parts is None or parts[2] or parts[3]:
        raise ConfigError(
            f"'{text}' names no repository to upload to",
            remedy="write owner/name; files and revisions follow from the upload",
        )
    return parts[1]


def _write(contents: dict[str, bytes], place: Path) -> None:
    """What would be uploaded, as a folder that `beit.load` takes too."""
    with claim_output(place, folder=True, remedy="choose another folder") as folder:
        folder.mkdir()
        for name, content in contents.items():
            write_file(folder / name, [content])


def _upload(contents: dict[str, bytes], name: str, public: bool, update: bool, message: str) -> str:
    """Make the repository, unless it is to exist, and commit. Returns the commit."""
    if get_token() is None:
        raise ConfigError("this machine has no token for the hub", remedy=LOG_IN)
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    operations = [CommitOperationAdd(file, content) for file, content in contents.items()]
    with no_bars_in_logs():
        if not update:
            with _typed_errors(name, f"{name} was not made on the hub", "run it again"):
                api.create_repo(name, private=not public)
        with _typed_errors(name, f"nothing was committed to {name}", "run it again, with --update"):
            commit = api.create_commit(name, operations, commit_message=message)
    return commit.oid


@contextmanager
def _typed_errors(name: str, what: str, remedy: str) -> Iterator[None]:
    """Errors of the hub as typed errors with a remedy."""
    try:
        yield
    except BeitError:
        raise
    except HFValidationError as error:
        raise ConfigError(
            f"'{name}' is not a name on the hub: {error}", remedy="choose another name"
        ) from error
    except RepositoryNotFoundError as error:
        raise ConfigError(
            f"the hub has no {name}, or hides it from this token",
            remedy="check the name; leave --update out to make it",
        ) from error
    except HfHubHTTPError as error:
        raise _refused(name, what, remedy, error) from error
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{what}: {reason}", remedy=f"change that; then {remedy}") from error
    except Exception as error:  # the hub's HTTP library, and so its errors, differ by version
        cause = error.__cause__ or error  # for a file it says no more than that it failed
        if isinstance(cause, HfHubHTTPError):
            raise _refused(name, what, remedy, cause) from error
        raise ResourceError(f"{what}: {first_line(cause)}", remedy=remedy) from error


def _refused(name: str, what: str, remedy: str, error: HfHubHTTPError) -> BeitError:
    """The error for an answer with a status that is one."""
    status = error.response.status_code
    reason = error.server_message or first_line(error)
    if status == HTTPStatus.UNAUTHORIZED:
        return ConfigError(f"the hub does not know this token: {reason}", remedy=LOG_IN)
    if status == HTTPStatus.FORBIDDEN:
        return ConfigError(
            f"this token may not write to {name}: {reason}",
            remedy="use a token that may write, and a name whose owner you are",
        )
    if status == HTTPStatus.CONFLICT:
        return ConfigError(
            f"{name} exists on the hub: {reason}",
            remedy="choose another name, or add a commit to it with --update",
        )
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return ConfigError(f"{what}: the hub answers {status} {reason}", remedy="do as it says")
    return ResourceError(f"{what}: the hub answers {status} {reason}", remedy=remedy)
