"""Download a file over several attempts; what has arrived is never fetched twice.

Written here because the libraries for it (pooch, torch.hub) start again after every interruption.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from beit.errors import CheckpointError, ResourceError

logger = logging.getLogger(__name__)

CHUNK = 1 << 16
PARTIAL = 206
UNSATISFIABLE = 416
WORTH_RETRYING = (408, 416, 429)  # and all errors from 500 on
TIMEOUT = 30.0
"""Seconds without a byte."""
RETRIES = 3
PAUSE = 1.0
"""Seconds before the first retry; each further one waits twice as long."""


class _InterruptedError(Exception):
    """Ends an attempt; another one may finish the download."""


def redacted(url: str) -> str:
    """A URL for messages, without user, password, query and fragment, which may be secret."""
    return re.sub("//[^/]*@", "//", re.split(r"[?#]", url)[0]) if "://" in url else url


def check_address(url: str, *, local: bool = True) -> None:
    """Raise CheckpointError unless this is https, or http on this machine where that is allowed."""
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if not host:
        raise CheckpointError(
            f"'{redacted(url)}' is not an address", remedy="write https://host/file"
        )
    if not url.startswith("https://") and not (local and _is_local(url)):
        raise CheckpointError(
            f"{redacted(url)} is refused: without https anybody on the way can change the file",
            remedy="use the https:// address of the same file",
        )


def _is_local(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")


class _Redirects(HTTPRedirectHandler):
    """Follows a few redirects, and only to addresses that the user could have given."""

    max_redirections = 5

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        fp.close()
        check_address(newurl, local=_is_local(req.full_url))
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, part: Path) -> None:
    """Complete the file `part`, continuing after the bytes that it has.

    Raises:
        CheckpointError: The server has no such file.
        ResourceError: All attempts fail.
        OSError: The disk is full.
    """
    reason = ""
    for attempt in range(RETRIES + 1):
        if attempt:
            logger.info("%s: %s; trying again", redacted(url), reason)
            time.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            return _attempt(url, part)
        except _InterruptedError as interruption:
            reason = str(interruption)
    raise ResourceError(
        f"{redacted(url)} did not come in {RETRIES + 1} attempts: {reason}",
        remedy=f"run it again: it continues after the {_size(part)} bytes that did",
    )


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _attempt(url: str, part: Path) -> None:
    """Request what is missing, and append it. Raises _InterruptedError if it breaks off."""
    marker = part.with_suffix(".etag")
    known = marker.read_text(encoding="utf-8") if marker.exists() else ""
    have = _size(part) if known else 0
    request = Request(url, headers={"User-Agent": "beit"})  # noqa: S310 (by check_address)
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", known)
    try:
        response: HTTPResponse = build_opener(_Redirects()).open(request, timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == UNSATISFIABLE:
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return  # all of it had arrived before
            part.unlink(missing_ok=True)
        answer = f"the server answers {error.code} {error.reason}".partition("\n")[0]
        if error.code >= 500 or error.code in WORTH_RETRYING:
            raise _InterruptedError(answer) from error
        raise CheckpointError(
            f"{redacted(error.url)} cannot be downloaded: {answer}",
            remedy="check the address; the released files have moved, and docs/notes/released.md "
            "has the known addresses",
        ) from error
    except (OSError, HTTPException) as error:
        raise _InterruptedError(str(error)) from error
    with response:
        _check_answer(url, response)
        etag = response.headers.get("ETag", "")
        place = response.headers.get("Content-Range", "")
        if response.status != PARTIAL or etag != known or not place.startswith(f"bytes {have}-"):
            part.unlink(missing_ok=True)
            marker.unlink(missing_ok=True)
            if response.status == PARTIAL:
                raise _InterruptedError("the server went on with another file")
            if etag.startswith('"'):  # a weak one does not promise the same bytes
                marker.write_text(etag, encoding="utf-8")
        _append(response, part)


def _check_answer(url: str, response: HTTPResponse) -> None:
    """Raise CheckpointError for a response that is not a file, or whose end cannot be known."""
    if response.headers.get_content_type() == "text/html":
        raise CheckpointError(
            f"{redacted(url)} answers with a web page, not with a file",
            remedy="open it in a browser, and copy the address of the download itself",
        )
    if response.length is None and not response.chunked:
        raise CheckpointError(
            f"{redacted(url)} does not say how long the file is: one cut short would look whole",
            remedy="download it by other means, and give its path",
        )


def _append(response: HTTPResponse, part: Path) -> None:
    """Append the body to what is there. Raises _InterruptedError if it ends too early."""
    total = None if response.length is None else _size(part) + response.length
    columns = TextColumn("fetching"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    off = not sys.stderr.isatty()
    with (
        part.open("ab") as file,
        Progress(*columns, console=Console(stderr=True), transient=True, disable=off) as progress,
    ):
        task = progress.add_task("", total=total, completed=_size(part))
        while chunk := _read(response):
            file.write(chunk)
            progress.advance(task, len(chunk))
    if total is not None and _size(part) != total:
        raise _InterruptedError(f"it broke off after {_size(part)} of {total} bytes")


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, HTTPException) as error:
        raise _InterruptedError(f"it broke off: {error}") from error
