"""Why a request is refused: a status, a stable code and a fixed text.

No text reveals anything about the request, the machine, or a library's error.
"""

from __future__ import annotations

import json
from typing import NamedTuple


class Reason(NamedTuple):
    """One reason for a refusal; clients rely on its code."""

    status: int
    code: str
    text: str


class Refused(Exception):  # noqa: N818
    """Ends a request with a reason."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        super().__init__(reason.code)


BAD_REQUEST = Reason(400, "bad_request", "The request breaks the rules of HTTP.")
EMPTY_BODY = Reason(400, "empty_body", "There is no image in the body, or an empty one.")
NO_KEY = Reason(
    401,
    "key_needed",
    "Send the key of this server, as Authorization: Bearer KEY or X-API-Key: KEY.",
)
FOREIGN_HOST = Reason(400, "foreign_host", "The Host header names another server.")
FOREIGN_ORIGIN = Reason(403, "foreign_origin", "Pages of another site may not send requests here.")
NO_SUCH_PATH = Reason(404, "no_such_path", "There is nothing at this path.")
NO_SUCH_MODEL = Reason(404, "no_such_model", "No model of that name is served; see /models.")
WRONG_METHOD = Reason(
    405, "method_not_allowed", "This path takes another method; see /openapi.json."
)
TIMED_OUT = Reason(408, "too_slow", "The request arrived too slowly.")
BODY_TOO_LARGE = Reason(413, "body_too_large", "The body has more bytes than the server accepts.")
TOO_MANY_IMAGES = Reason(
    413, "too_many_images", "There are more images in the request than the server accepts."
)
TOO_MANY_PIXELS = Reason(
    413, "too_many_pixels", "The image has more pixels than the server accepts."
)
WRONG_TYPE = Reason(
    415,
    "wrong_content_type",
    "Send images as image/*, multipart/form-data or application/json, without encoding; "
    "curl needs -H 'Content-Type: image/jpeg'.",
)
NOT_AN_IMAGE = Reason(
    415,
    "not_an_image",
    "It is not a JPEG, PNG, WebP, BMP, GIF, TIFF, PPM, JPEG 2000 or AVIF image.",
)
UNREADABLE = Reason(422, "unreadable_image", "The image is damaged or of an unknown mode.")
BAD_BODY = Reason(
    422, "bad_body", "The form or JSON does not hold images as /openapi.json describes them."
)
BAD_OPTION = Reason(
    422, "bad_option", "An option is unknown, out of its range, or not in the query."
)
MODEL_NEEDED = Reason(
    422, "model_needed", "Several models can do this; choose one with ?model=NAME."
)
WRONG_MODEL = Reason(422, "wrong_model", "The model cannot do this; see /models.")
QUEUE_FULL = Reason(429, "queue_full", "Too many requests are waiting; try again later.")
INTERNAL = Reason(500, "internal", "The server failed; its log has this request's id.")
NOT_FINITE = Reason(500, "not_finite", "The model gave numbers that are not finite.")
STOPPING = Reason(503, "stopping", "The server is stopping.")
RESTARTING = Reason(503, "restarting", "The models failed and are being restarted; try again.")
TOO_MANY_CONNECTIONS = Reason(503, "too_many_connections", "Too many connections are open.")
DEADLINE = Reason(504, "deadline", "The model did not answer in time.")
BY_CODE = {reason.code: reason for reason in list(vars().values()) if isinstance(reason, Reason)}


def body_of(reason: Reason, request_id: str) -> bytes:
    """The JSON of a refusal."""
    error = {"code": reason.code, "message": reason.text, "request_id": request_id}
    return json.dumps({"error": error}).encode()
