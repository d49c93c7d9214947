"""The images in the body of a request: the bytes of one, a form, or base64 in JSON."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator
from typing import Literal, NamedTuple

from pydantic import ValidationError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from beit.serve.http_errors import (
    BAD_BODY,
    BAD_OPTION,
    EMPTY_BODY,
    TOO_MANY_IMAGES,
    WRONG_TYPE,
    Refused,
)
from beit.serve.schemas import Upload

Kind = Literal["image", "form", "json"]
PLURAL = "images"
BINARY = {"type": "string", "format": "binary"}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": BINARY},
            "application/octet-stream": {"schema": BINARY},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "description": "One file of any name is one image; files called `images`, or "
                    "several files, are a list of images.",
                    "properties": {
                        "image": BINARY,
                        "images": {"type": "array", "items": BINARY},
                    },
                }
            },
            "application/json": {"schema": Upload.model_json_schema()},
        },
    }
}
"""How OpenAPI describes the body of a request."""


class Images(NamedTuple):
    """Image files of a request, and whether the answer is a list."""

    files: list[bytes]
    several: bool


class _InMemory(MultiPartParser):
    """Starlette's parser without files on disk: the whole body is in memory already."""

    spool_max_size = 0  # no limit, for a SpooledTemporaryFile


def kind_of(headers: Headers) -> Kind:
    """How the body holds its images. Raises Refused if its type is another or it is encoded."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Refused(WRONG_TYPE)
    if kind.startswith("image/") or kind == "application/octet-stream":
        return "image"
    known: dict[str, Kind] = {"multipart/form-data": "form", "application/json": "json"}
    if kind not in known:
        raise Refused(WRONG_TYPE)
    return known[kind]


async def read_images(headers: Headers, body: bytes, most: int) -> Images:
    """The images in the body of a request.

    Args:
        headers: Say how the body holds its images.
        body: The whole body.
        most: Largest number of images that is accepted.

    Raises:
        Refused: The body is of another type or malformed, or has no image or too many.
    """
    kind = kind_of(headers)
    if kind == "image":
        found = Images([body], False)
    else:
        found = await _of_form(headers, body, most) if kind == "form" else _of_json(body)
    if len(found.files) > most:
        raise Refused(TOO_MANY_IMAGES)
    if not found.files or not all(found.files):
        raise Refused(EMPTY_BODY)
    return found


async def _of_form(headers: Headers, body: bytes, most: int) -> Images:
    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await _InMemory(headers, whole(), max_files=most, max_fields=most).parse()
    except MultiPartException as error:
        many = error.message.startswith("Too many files")
        raise Refused(TOO_MANY_IMAGES if many else BAD_BODY) from None
    except ValueError:  # of the parser itself, which older releases of starlette do not catch
        raise Refused(BAD_BODY) from None
    names, files = [], []
    for name, value in form.multi_items():
        if not isinstance(value, UploadFile):
            raise Refused(BAD_OPTION)
        names.append(name)
        files.append(await value.read())
    await form.close()
    return Images(files, len(files) > 1 or PLURAL in names)


def _of_json(body: bytes) -> Images:
    try:
        found = Upload.model_validate_json(body)
        several = found.images is not None
        texts = found.images if found.images is not None else [found.image or ""]
        return Images([_decoded(text) for text in texts], several)
    except (ValidationError, binascii.Error):
        raise Refused(BAD_BODY) from None


def _decoded(text: str) -> bytes:
    """Bytes in base64, plain or behind `data:image/png;base64,`."""
    head, comma, rest = text.partition(",")
    if comma and not (head.startswith("data:") and head.endswith(";base64")):
        raise binascii.Error
    return base64.b64decode((rest if comma else head).encode(), validate=True)
