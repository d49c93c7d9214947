"""Upload an artifact to the Hugging Face hub, as one commit, after listing what goes there; and
write its model card, which tells people what the artifact is."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from huggingface_hub import CommitOperationAdd, HfApi, ModelCardData, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from beit.atomic_io import write_file
from beit.claim import claim_output
from beit.errors import BeitError, ConfigError, ResourceError
from beit.terminal import printable
from beit.weights.fetch import HUB_ID, first_line, no_bars_in_logs
from beit.weights.kinds import KINDS
from beit.weights.store import CONFIG, WEIGHTS, ArtifactFiles, artifact_of, read_artifact

logger = logging.getLogger(__name__)

LICENSE = re.compile(r"[a-z0-9][\w.-]*")
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN, with a token that may write"
CARD = "README.md"
LIBRARY = "beit"
MOST_CLASSES = 200
SEVERAL = (
    "A Vision Transformer that names the labels of an image, any number of them: each has a "
    "probability of its own."
)
BACKBONE = ("width", "depth", "heads", "patch", "size", "channels", "mean", "std")
ORIGIN = {
    "recipe": "recipe",
    "steps": "steps",
    "images": "images",
    "pictures": "images",  # an old name
    "data": "fingerprint of the images",
    "from": "converted from",
}


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
    """Upload a run's model, or an artifact, with a model card, to the hub.

    Uploaded are the weights, `config.json` and `README.md`, nothing else.

    Args:
        artifact: The folder of a run or an artifact.
        repository: `owner/name` on the hub. It is created, and must not exist, unless `update`.
        public: Make a new repository public instead of private.
        license: An identifier of the hub's list, e.g. apache-2.0.
        update: Add one more commit to an existing repository, which stays as public as it is.
        message: Message of the commit.
        dry_run: A folder to write everything to instead; nothing is sent.

    Raises:
        CheckpointError: The artifact is damaged.
        ConfigError: The hub refuses the upload.
        ResourceError: The upload fails.
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
    """`owner/name` from what the user wrote. Raises ConfigError for anything else."""
    parts = HUB_ID.fullmatch(text if text.startswith("hf:") else f"hf:{text}")
    if parts is None or parts[2] or parts[3]:
        raise ConfigError(
            f"'{text}' names no repository to upload to",
            remedy="write owner/name; files and revisions follow from the upload",
        )
    return parts[1]


def _write(contents: dict[str, bytes], place: Path) -> None:
    """Write what would be uploaded to a folder, which `beit.load` takes too."""
    with claim_output(place, folder=True, remedy="choose another folder") as folder:
        folder.mkdir()
        for name, content in contents.items():
            write_file(folder / name, [content])


def _upload(contents: dict[str, bytes], name: str, public: bool, update: bool, message: str) -> str:
    """Create the repository, unless it has to exist, and commit. Returns the commit."""
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
    """Turn errors of the hub into ours, with a remedy."""
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
        cause = error.__cause__ or error  # about a file it says only that it failed
        if isinstance(cause, HfHubHTTPError):
            raise _refused(name, what, remedy, cause) from error
        raise ResourceError(f"{what}: {first_line(cause)}", remedy=remedy) from error


def _refused(name: str, what: str, remedy: str, error: HfHubHTTPError) -> BeitError:
    """The error for an HTTP error status."""
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


# -- the model card ------------------------------------------------------------------------------


def model_card(files: ArtifactFiles, repository: str, *, license: str = "") -> str:  # noqa: A002
    """The text of README.md: kind and architecture, what the model was trained on and how, metrics,
    classes, hashes, how to load it.

    Args:
        files: The files of the artifact.
        repository: `owner/name`, from which the card says to load it.
        license: An identifier of the hub's list, e.g. apache-2.0; empty: none stated.
    """
    config = json.loads(files.config)
    kind = KINDS[config["architecture"]["kind"]]
    head = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag=kind.pipeline,
        license=license or None,
        tags=[LIBRARY, kind.name],
    )
    name = repository.rpartition("/")[2]
    stated = f"Licence: {license}." if license else (
        "No licence was stated: ask the owner before using it."
    )  # fmt: skip
    parts = [
        f"---\n{head.to_yaml()}\n---",
        f"# {name}",
        f"{SEVERAL if config.get('multi_label') else kind.summary} {stated}",
        "## Use",
        f'```python\nimport beit\n\nmodel = beit.load("hf:{repository}")\n{kind.use}\n```',
        f"It needs the library `{LIBRARY}`, version {config['versions']['beit']} or later. "
        "`hf:OWNER/NAME@COMMIT` fixes the version of the model.",
        "## Model",
        _table(("", ""), _architecture(config, files.weights)),
        "## Training",
        _training(config),
        *_classes(config["classes"], config.get("thresholds", [])),
        "## Files",
        _table(
            ("file", "bytes", "SHA-256"),
            [
                (name, f"{len(content):,}", hashlib.sha256(content).hexdigest())
                for name, content in ((CONFIG, files.config), (WEIGHTS, files.weights))
            ],
        ),
        f"The weights are safetensors, so loading them runs no code; `{CONFIG}` holds their hash, "
        "and `beit.load` compares it.",
    ]
    return "\n\n".join(parts) + "\n"


def _architecture(config: dict[str, Any], weights: bytes) -> list[tuple[str, str]]:
    architecture = config["architecture"]
    numbers = sum(tensor.numel() for tensor in safetensors.torch.load(weights).values())
    rows = [("kind", architecture["kind"]), ("weights", f"{numbers:,}")]
    rows += [
        (name, _text(value))
        for name, value in architecture.get("backbone", {}).items()
        if name in BACKBONE
    ]
    rows += [
        (name, _text(value))
        for name, value in architecture.get("tokenizer", {}).items()
        if isinstance(value, str | int | float | list)
    ]
    if "outputs" in architecture:
        rows.append(("outputs", str(architecture["outputs"])))
    return rows


def _training(config: dict[str, Any]) -> str:
    trained = dict(config["trained"])
    rows = [(words, _text(trained[key])) for key, words in ORIGIN.items() if trained.get(key)]
    rows += [("note", _text(note)) for note in trained.get("notes", ())]
    if config["tokenizer"]:
        rows.append(("SHA-256 of the tokenizer it predicts", config["tokenizer"]))
    rows += [(f"version of {name}", _text(value)) for name, value in config["versions"].items()]
    text = _table(("", ""), rows)
    metrics = trained.get("metrics")
    if not metrics:
        return text + "\n\nNo metric was recorded."
    figures = [(name, f"{value:.4g}") for name, value in metrics.items()]
    return text + "\n\nAt its last evaluation:\n\n" + _table(("metric", "value"), figures)


def _classes(names: list[str], thresholds: list[float]) -> list[str]:
    """The names and, of a multi-label model, the probability from which each label counts."""
    if not names:
        return []
    more = len(names) - MOST_CLASSES
    words = [_text(name) for name in names[:MOST_CLASSES]]
    if thresholds:
        pairs = zip(words, thresholds, strict=False)
        words = [f"{word} (from {threshold:.3f})" for word, threshold in pairs]
    listed = ", ".join(words)
    return ["## Classes", f"{listed}{f', and {more} more' if more > 0 else ''}."]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (head, ("---",) * len(head), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: object) -> str:
    """A value in one cell of a table: on one line, and escaped for Markdown and HTML."""
    text = value if isinstance(value, str) else json.dumps(value)
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return printable(" ".join(text.split()))
