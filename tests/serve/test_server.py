"""A real server over real sockets: answers, refusals, deadlines, the way it stops."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests

import beit
from served import HEAD, IMAGE, NAMES, PATIENT, SECRET, code_of, png, serving, wait_for

CONNECTIONS = 40
QUICK = ["--header-deadline=1", "--body-deadline=2", "--idle-deadline=2"]


@pytest.fixture(scope="module")
def server(artifacts, environment):
    """Waits for a client that gets no time from a busy machine."""
    named = [f"{name}={artifacts[name]}" for name in NAMES]
    small = ["--body", "100000", "--pixels", "1000000", "--connections", str(CONNECTIONS)]
    with serving(*named, *PATIENT, *small, environment=environment) as running:
        yield running


@pytest.fixture(scope="module")
def impatient(artifacts, environment):
    """Closes slow and idle connections soon."""
    few = ["--connections", str(CONNECTIONS)]
    with serving(str(artifacts["classifier"]), *QUICK, *few, environment=environment) as running:
        yield running


def raw(server, *parts):
    """Send bytes as they are; all that comes back."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=240) as connection:
        for part in parts:
            connection.sendall(part)
        received = b""
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionResetError:
            pass
        return received


def test_answers_are_those_of_the_artifacts(server, artifacts):
    classifier, masked = beit.load(artifacts["classifier"]), beit.load(artifacts["masked"])
    segmenter, tokenizer = beit.load(artifacts["segmenter"]), beit.load(artifacts["tokenizer"])
    data = png(1)
    labels = server.ask("POST", "/predict?top=2", data)[1]["labels"]
    expected = classifier.predict(data, top=2)
    assert [label["name"] for label in labels] == [label.name for label in expected]
    assert labels[0]["probability"] == pytest.approx(expected[0].probability, abs=1e-5)
    features = server.ask("POST", "/embed?model=masked&block=0", data)[1]["features"]
    assert np.allclose(features, masked.embed([data], block=0)[0].numpy(), atol=1e-5)
    assert server.ask("POST", "/tokens", data)[1]["tokens"] == tokenizer.tokens([data])[0].tolist()
    answer = server.ask("POST", "/segment", data)[1]
    ids, counts = np.unique(segmenter.segment(data), return_counts=True)
    fractions = {one["id"]: one["fraction"] for one in answer["classes"]}
    assert fractions == {number: count / 768 for number, count in zip(ids, counts, strict=True)}
    assert len(server.ask("POST", "/reconstruct", data)[1]["tokens"]) == 16
    assert server.ask("POST", "/attention?model=masked", data)[1]["grid"] == [4, 4]


def test_many_at_once_get_each_their_own_answer(server, artifacts):
    images = [png(number) for number in range(40)]
    expected = beit.load(artifacts["classifier"]).probabilities(images)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda data: server.ask("POST", "/predict", data), images))
    for (status, body, _), row in zip(answers, expected, strict=True):
        assert status == 200
        assert body["labels"][0]["probability"] == pytest.approx(float(row.max()), abs=1e-5)
    counted = server.ask("GET", "/metrics")[1].decode()
    most = float(counted.split("beit_batch_images_sum ")[1].split()[0])
    batches = float(counted.split("beit_batch_images_count ")[1].split()[0])
    assert batches < most  # some went together


PNG = {"content-type": "image/png"}
JSON = {"content-type": "application/json"}


def form(**fields):
    """Body and headers as HTTP libraries send them: bytes as files, text as fields."""
    files = [
        (name, (f"{name}.png", one) if isinstance(one, bytes) else (None, one))
        for name, value in fields.items()
        for one in (value if isinstance(value, list) else [value])
    ]
    request = requests.Request("POST", "http://localhost", files=files).prepare()
    return request.body, {"content-type": request.headers["content-type"]}


def in_json(head="", **fields):
    def encoded(value):
        return head + base64.b64encode(value).decode()

    values = {
        name: list(map(encoded, value)) if isinstance(value, list) else encoded(value)
        for name, value in fields.items()
    }
    return json.dumps(values).encode(), JSON


@pytest.mark.parametrize(
    "sent",
    [
        form(image=png(1)),
        form(file=png(1)),
        in_json(image=png(1)),
        in_json("data:image/png;base64,", image=png(1)),
    ],
)
def test_what_clients_send_is_an_image(server, sent):
    assert server.ask("POST", "/predict", *sent)[1] == server.ask("POST", "/predict", png(1))[1]


@pytest.mark.parametrize("send", [form, in_json])
def test_several_images_have_an_answer_each(server, send):
    """In their order, also where one of them is no image."""
    images = [png(1), b"rubbish", png(2), png(3)]
    status, body, headers = server.ask("POST", "/predict", *send(images=images))
    alone = [server.ask("POST", "/predict", image) for image in images]
    assert status == 200
    assert headers["x-model-version"] == alone[0][2]["x-model-version"]
    assert [list(one) for one in body["answers"]] == [["labels"], ["error"], ["labels"], ["labels"]]
    assert body["answers"][1]["error"]["code"] == "not_an_image"
    for answer, (_, expected, _) in zip(body["answers"], alone, strict=True):
        if "labels" in answer:
            assert answer["labels"][0]["name"] == expected["labels"][0]["name"]
            assert answer["labels"][0]["probability"] == pytest.approx(
                expected["labels"][0]["probability"], abs=1e-5
            )
    (one,) = server.ask("POST", "/predict", *send(images=[png(1)]))[1]["answers"]
    assert one == alone[0][1]
    assert server.number("beit_requests_waiting") == 0


SITE = {"origin": "https://app.example.org"}


@pytest.fixture(scope="module")
def guarded(artifacts, environment):
    """Asks for a key, and may be asked by a page of another site."""
    options = ["--allow-origin", SITE["origin"]]
    with serving(
        str(artifacts["classifier"]), *options, environment=environment | {"BEIT_API_KEY": SECRET}
    ) as running:
        yield running


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer wrong"}, {"x-api-key": SECRET[:-1]},
     {"authorization": f"Basic {SECRET}"}, {"x-api-key": "\xe9"}],
)  # fmt: skip
def test_without_the_key_nothing_is_answered(guarded, headers):
    for path in ("/predict", "/models", "/metrics", "/openapi.json"):
        body = png(1) if path == "/predict" else None
        answer = guarded.ask("POST" if body else "GET", path, body, PNG | headers | SITE)
        assert code_of(answer) == (401, "key_needed")
        assert answer[2]["www-authenticate"] == "Bearer"
        assert answer[2]["access-control-allow-origin"] == SITE["origin"]  # the page can say so


def test_with_the_key_another_site_reads_the_answer(guarded):
    for own in ({"authorization": f"Bearer {SECRET}"}, {"x-api-key": SECRET}):
        status, body, headers = guarded.ask("POST", "/predict", png(1), PNG | own | SITE)
        assert (status, len(body["labels"])) == (200, 3)
        assert headers["access-control-allow-origin"] == SITE["origin"]
        assert "x-model-version" in headers["access-control-expose-headers"]
    other = guarded.ask("POST", "/predict", png(1), PNG | own | {"origin": "https://evil.example"})
    assert code_of(other) == (403, "foreign_origin")
    assert "access-control-allow-origin" not in other[2]
    for path in ("/", "/health", "/ready"):
        assert guarded.ask("GET", path)[0] == 200


def test_a_preflight_is_answered_for_these_sites_alone(guarded, impatient):
    asked = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,x-api-key,authorization",
    }
    status, _, headers = guarded.ask("OPTIONS", "/predict", None, asked | SITE)
    assert status == 200
    assert headers["access-control-allow-origin"] == SITE["origin"]
    allowed = headers["access-control-allow-headers"].lower()
    assert all(name in allowed for name in ("content-type", "x-api-key", "authorization"))
    other = guarded.ask("OPTIONS", "/predict", None, asked | {"origin": "https://evil.example"})
    assert other[0] == 400
    assert "access-control-allow-origin" not in other[2]
    assert impatient.ask("OPTIONS", "/predict", None, asked | SITE)[0] == 403


REFUSALS = {
    "empty": ("/predict", b"", PNG, 400, "empty_body"),
    "no image": ("/predict", b"rubbish", PNG, 415, "not_an_image"),
    "HEIC": ("/predict", b"\0\0\0\x18ftypheic" + bytes(200), PNG, 415, "not_an_image"),
    "cut": ("/predict", png(1)[:60], PNG, 422, "unreadable_image"),
    "too many bytes": ("/predict", bytes(100001), PNG, 413, "body_too_large"),
    "too many pixels": ("/predict", png(1, (1001, 1000)), PNG, 413, "too_many_pixels"),
    "text": ("/predict", b"x", {"content-type": "text/plain"}, 415, "wrong_content_type"),
    "form without parts": ("/predict", b"x", form(a="")[1], 422, "bad_body"),
    "form of no image": ("/predict", *form(image=b""), 400, "empty_body"),
    "form with an option": ("/predict", *form(image=png(1), top="2"), 422, "bad_option"),
    "form of too many": ("/predict", *form(images=[png(1)] * 65), 413, "too_many_images"),
    "no JSON": ("/predict", b"{", JSON, 422, "bad_body"),
    "JSON of other keys": ("/predict", b'{"picture": "eA=="}', JSON, 422, "bad_body"),
    "JSON of both": ("/predict", b'{"image": "eA==", "images": []}', JSON, 422, "bad_body"),
    "JSON of a list": ("/predict", b'["eA=="]', JSON, 422, "bad_body"),
    "JSON of none": ("/predict", b'{"images": []}', JSON, 400, "empty_body"),
    "no base64": ("/predict", b'{"image": "e%A="}', JSON, 422, "bad_body"),
    "no data: URL": ("/predict", b'{"image": "http:,eA=="}', JSON, 422, "bad_body"),
    "JSON of too many": ("/predict", *in_json(images=[b"x"] * 65), 413, "too_many_images"),
    "encoded": ("/predict", b"x", PNG | {"content-encoding": "gzip"}, 415, "wrong_content_type"),
    "unknown option value": ("/predict?top=x", png(1), PNG, 422, "bad_option"),
    "unknown option": ("/predict?topp=2", png(1), PNG, 422, "bad_option"),
    "option of another path": ("/predict?block=2", png(1), PNG, 422, "bad_option"),
    "no such block": ("/embed?model=masked&block=9", png(1), PNG, 422, "bad_option"),
    "several could": ("/embed", png(1), PNG, 422, "model_needed"),
    "cannot": ("/predict?model=masked", png(1), PNG, 422, "wrong_model"),
    "folder": ("/predict?model=../masked", png(1), PNG, 404, "no_such_model"),
    "encoded folder": ("/predict?model=%2e%2e%2fmasked", png(1), PNG, 404, "no_such_model"),
    "nul": ("/predict?model=masked%00", png(1), PNG, 404, "no_such_model"),
    "look-alike": ("/predict?model=m%D0%B0sked", png(1), PNG, 404, "no_such_model"),
    "long": ("/predict?model=" + "a" * 10000, png(1), PNG, 422, "bad_option"),
    "another host": ("/predict", png(1), PNG | {"host": "evil.example"}, 400, "foreign_host"),
    "another site": ("/predict", png(1), PNG | {"origin": "http://evil"}, 403, "foreign_origin"),
    "no such path": ("/nowhere", png(1), PNG, 404, "no_such_path"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(server, case):
    path, body, headers, status, code = REFUSALS[case]
    assert code_of(server.ask("POST", path, body, headers)) == (status, code)
    assert server.ask("GET", "/ready")[0] == 200


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x00: a\r\n\r\n",
    ],
)
def test_requests_that_break_the_rules_are_closed(server, lines):
    assert raw(server, HEAD + lines).startswith(b"HTTP/1.1 400 ")


def test_a_body_without_length_is_counted_as_it_comes(server):
    part = b"8000\r\n" + bytes(0x8000) + b"\r\n"
    answer = raw(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[part] * 4)
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("start", [b"", b"POST /pre", HEAD + b"Content-Length: 5000\r\n\r\nab"])
def test_slow_senders_are_closed(impatient, start):
    answer = raw(impatient, start)
    assert b" 408 " in answer or not answer
    wait_for(impatient.is_well)


JUMPING = """
import itertools, time

real, hours = time.time, itertools.count()
time.time = lambda: real() + {jump} * next(hours)
time.time_ns = lambda: int(time.time() * 1e9)
"""


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_clock_that_jumps_changes_no_deadline(jump, artifacts, environment, tmp_path):
    """By an hour, forth or back, at every look at it, in the server and in its worker."""
    (tmp_path / "sitecustomize.py").write_text(JUMPING.format(jump=jump))
    jumping = environment | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{environment['PYTHONPATH']}"}
    quick = ["--header-deadline", "4", "--body-deadline", "4", "--wait", "0.4", "--batch", "4"]
    expected = beit.load(artifacts["classifier"]).predict(png(1), top=1)[0].name
    with serving(str(artifacts["classifier"]), *quick, environment=jumping) as server:
        connection = server.connect()
        for _ in range(3):  # on the same connection, which is not taken for idle
            connection.request("POST", "/predict?top=1", png(1), IMAGE)
            with connection.getresponse() as response:
                assert json.loads(response.read())["labels"][0]["name"] == expected
        connection.close()
        begun = (b"POST /pre", HEAD + b"Content-Length: 5000\r\n\r\nab")
        with ThreadPoolExecutor(len(begun)) as pool:
            for answer in pool.map(lambda start: raw(server, start), begun):
                assert b" 408 " in answer or not answer  # who is slow is still closed
        assert server.number("beit_models_restarts_total") == 0


def connections(server, number):
    address = ("127.0.0.1", server.port)
    return [socket.create_connection(address, timeout=240) for _ in range(number)]


def is_ready(server):
    try:
        return server.ask("GET", "/ready")[0] == 200
    except (ConnectionError, http.client.HTTPException):  # refused before the request was read
        return False


def test_connections_have_a_cap(server):
    opened = connections(server, CONNECTIONS + 20)
    assert b" 503 " in opened[-1].recv(1000)
    for connection in opened:
        connection.close()
    wait_for(lambda: is_ready(server))


def test_idle_connections_make_room(impatient):
    opened = connections(impatient, CONNECTIONS + 20)
    wait_for(lambda: is_ready(impatient))
    for connection in opened:
        connection.close()


def test_who_leaves_early_is_forgotten(server):
    before = server.number("beit_requests_left_total")
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(HEAD + b"Content-Length: 5000\r\n\r\nabc")
    wait_for(lambda: server.number("beit_requests_left_total") == before + 5)
    assert server.number("beit_requests_waiting") == 0


def test_the_description_names_every_path(server):
    paths = server.ask("GET", "/openapi.json")[1]["paths"]
    assert {"/predict", "/segment", "/embed", "/tokens", "/health", "/ready"} <= paths.keys()


def test_json_is_json(server):
    """No answer holds a bare NaN."""

    def strict(word):
        raise AssertionError(word)

    connection = server.connect()
    try:
        connection.request("POST", "/predict", png(5), PNG)
        with connection.getresponse() as response:
            json.loads(response.read(), parse_constant=strict)
    finally:
        connection.close()
