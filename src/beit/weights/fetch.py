"""Find weights at a path, a hub id or a URL. Nothing is fetched but what the user names.

Hub ids go through huggingface_hub and its cache. Files from other URLs go into our own cache, and
get their names there only once their SHA-256 is right.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import string
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urldefrag, urlsplit

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from beit.atomic_io import cache_dir, from_home, replace_file
from beit.errors import BeitError, CheckpointError, ConfigError, ResourceError, no_model_at
from beit.json_object import parse_json
from beit.weights.download import check_address, download, redacted
from beit.weights.published import NAMES, recognise_name

logger = logging.getLogger(__name__)

RECORD = "record"
SHA256 = re.compile("[0-9a-f]{64}")
HUB_ID = re.compile(r"hf:(?!.*\.\.)([\w.-]+/[\w.-]+)(?:/([\w./-]+))?(?:@([\w./-]+))?")
NOT_THERE = (
    EntryNotFoundError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError,
)  # fmt: skip
DESCRIPTION = (
    "config.json", "preprocessor_config.json", "processor_config.json", "*.index.json",
    "*.index.*.json",
)  # fmt: skip
SAFE = ("*.safetensors",)
PICKLED = ("*.bin", "*.pth")


class Fetched(NamedTuple):
    """Where weights lie on this machine."""

    path: Path
    """A file, or a folder for a whole repository."""
    reference: str
    """Where they come from, fit to be published: a hub id, a URL without its secrets, or the name
    of a file or folder without those above it."""
    sha256: str
    """Hash of a file that was fetched, or checked against a given hash; else empty."""


def fetch(reference: str | Path, *, sha256: str = "") -> Fetched:
    """Find weights, or fetch them.

    Args:
        reference: A file or folder; `hf:org/name`, where `/file` and `@revision` may follow;
            `timm/name`, short for `hf:timm/name`; `https://...`; or a released model by the name
            that `beit models` lists.
        sha256: Hash that the file must have; a URL may carry it as `#sha256=HEX`. "record" trusts
            the first download from a URL, and holds later ones to it.

    Raises:
        CheckpointError: There is no such file, or it is the wrong one.
        ConfigError: `sha256` is not a hash, or does not go with the reference.
        ResourceError: The network or the disk fails.
    """
    text, sha256 = str(reference), sha256.lower()
    if sha256 not in ("", RECORD) and not SHA256.fullmatch(sha256):
        raise ConfigError(
            f"'{sha256}' is not a SHA-256", remedy=f"give 64 hexadecimal digits, or '{RECORD}'"
        )
    scheme = "" if isinstance(reference, Path) else text.partition(":")[0]
    try:
        if scheme in ("http", "https"):
            return _from_address(text, sha256)
        if scheme == "hf":
            return _from_hub(text, sha256)
        path = from_home(text)
        if text and path.exists():
            _check_file(path, sha256)
            return Fetched(path, path.resolve().name, sha256)
        if text.startswith("timm/"):
            return _from_hub(f"hf:{text}", sha256)._replace(reference=text)
        if text in NAMES:
            place, known = NAMES[text].download
            return fetch(place, sha256=sha256 or known)
    except OSError as error:
        raise ResourceError(
            f"{redacted(text)} cannot be fetched: {error}",
            remedy="make room, or permit reading and writing there; what has come so far is kept",
        ) from error
    raise no_model_at(text, NAMES)


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_file(path: Path, sha256: str) -> None:
    """Check what is on this machine against the hash it should have."""
    if not sha256:
        return
    if path.is_dir() or sha256 == RECORD:
        raise ConfigError(
            f"sha256='{sha256}' was given for {path}",
            remedy=f"give the hash of one file, or none; '{RECORD}' is for addresses",
        )
    found = file_hash(path)
    if found != sha256:
        raise CheckpointError(
            f"{path} has the SHA-256 {found}, not {sha256}",
            remedy="it is damaged or another file: copy it again",
        )


def _from_hub(reference: str, sha256: str) -> Fetched:
    """One file of a repository, or its weights with their configs."""
    parts = HUB_ID.fullmatch(reference)
    if parts is None:
        raise CheckpointError(
            f"'{reference}' is not a hub id",
            remedy="write hf:org/name, hf:org/name/file or hf:org/name@revision",
        )
    repository, file, revision = parts.groups()
    endpoint = os.environ.get("HF_ENDPOINT")  # now, not when huggingface_hub was imported
    try:
        with no_bars_in_logs():
            if file:
                path = hf_hub_download(repository, file, revision=revision, endpoint=endpoint)
            else:
                path = _snapshot(repository, revision, endpoint)
    except BeitError:
        raise
    except Exception as error:  # the hub's HTTP library, and so its errors, differ by version
        raise _hub_error(reference, error) from error
    found = Path(path)
    _check_file(found, sha256)
    return Fetched(found, reference, "" if found.is_dir() else file_hash(found))


def _hub_error(reference: str, error: Exception) -> BeitError:
    if isinstance(error, GatedRepoError):
        return CheckpointError(
            f"{reference} is given only to those who accept its terms",
            remedy="accept them on its page on the hub, then log in with `hf auth login`",
        )
    if isinstance(error, LocalEntryNotFoundError):
        return ResourceError(
            f"{reference} is not in the hub's cache, and the hub was not reached: "
            f"{first_line(error)}",
            remedy="connect to the network, and unset HF_HUB_OFFLINE",
        )
    if isinstance(error, NOT_THERE):
        return CheckpointError(
            f"the hub has no {reference}",
            remedy="check the name on the hub; if it is private, log in with `hf auth login`",
        )
    return ResourceError(
        f"{reference} did not come from the hub: {first_line(error)}",
        remedy="run it again; see that the network holds and the disk has room",
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


@contextmanager
def no_bars_in_logs() -> Iterator[None]:
    """Show the hub's progress bars only on a terminal."""
    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _snapshot(repository: str, revision: str | None, endpoint: str | None) -> str:
    """The folder of a repository; pickles are fetched only where there are no safetensors."""
    for weights in (SAFE, PICKLED):
        path = snapshot_download(
            repository,
            revision=revision,
            endpoint=endpoint,
            allow_patterns=[*DESCRIPTION, *weights],
        )
        if any(any(Path(path).rglob(pattern)) for pattern in weights):
            return path
    raise CheckpointError(
        f"{repository} on the hub holds no weights: no {', '.join(SAFE + PICKLED)}",
        remedy="name a repository that holds a PyTorch model",
    )


def _from_address(reference: str, sha256: str) -> Fetched:
    """The file at a URL: from the cache if it is there with the right hash, else downloaded.

    Files of one folder on the server share a folder here, and keep their names.
    """
    url, fragment = urldefrag(quote(reference, safe=string.punctuation))
    check_address(url)
    stated = fragment.lower().removeprefix("sha256=")
    if fragment and (not SHA256.fullmatch(stated) or sha256 not in ("", RECORD, stated)):
        raise ConfigError(
            f"'#{fragment}' is not a SHA-256, or not the one that was given beside",
            remedy="end the address with #sha256= and 64 hexadecimal digits, or with neither",
        )
    parts = urlsplit(url)
    above, _, name = parts.path.rpartition("/")
    place = cache_dir() / "downloads" / _key(parts._replace(path=above).geturl())
    place.mkdir(parents=True, exist_ok=True)
    file = place / (name if re.fullmatch(r"\w[\w.-]{,99}", name) else _key(name))
    record = file.with_name(f".{file.name}.json")
    with file.with_name(f".{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # freed by the kernel, also of a process that dies
        start = _expected(url, stated or sha256, record)
        found = file_hash(file) if file.exists() else ""
        if not found or not found.startswith(start):
            found = _downloaded(url, file, start)
        if not SHA256.fullmatch(start):
            logger.warning("%s has the SHA-256 %s; later downloads must too", redacted(url), found)
        text = json.dumps({"url": url, "sha256": found}, indent=1).encode()
        if not record.exists() or record.read_bytes() != text:
            replace_file(record, [text])
    return Fetched(file, redacted(url), found)


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _expected(url: str, sha256: str, record: Path) -> str:
    """What the SHA-256 must begin with: all of it, or less where the user trusts the URL.

    Raises CheckpointError if nothing is known and the URL is not trusted.
    """
    if sha256 not in ("", RECORD):
        return sha256
    published = recognise_name(url)
    if published is not None and published.sha256:
        return published.sha256
    if record.exists():
        try:
            return str(parse_json(record.read_bytes())["sha256"])
        except (ValueError, LookupError, TypeError) as error:
            raise CheckpointError(
                f"{record}, the record of a download, is damaged", remedy="delete that file"
            ) from error
    if not sha256:
        raise CheckpointError(
            f"nothing says which file {redacted(url)} should be: its SHA-256 is not known",
            remedy="end the address with #sha256= and the hash; or, to trust it as it is now, give "
            f"sha256='{RECORD}': later downloads are then held to this one",
        )
    return published.hash_start if published is not None else ""


def _downloaded(url: str, file: Path, start: str) -> str:
    """Download a file, and give it its name if its SHA-256 begins with `start`. Returns the
    hash."""
    part = file.with_name(f".{file.name}.part")
    download(url, part)
    found = file_hash(part)
    if not found.startswith(start):
        part.unlink()
        raise CheckpointError(
            f"{redacted(url)} has the SHA-256 {found}, and should have {start}",
            remedy="it has changed, or is another file of that name: ask its publisher, and give "
            "the hash of the one you want",
        )
    part.replace(file)
    return found
