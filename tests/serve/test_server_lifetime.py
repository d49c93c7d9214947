"""What a server starts with, what it refuses to start with, and how it stops losing nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from beit.cli import main
from beit.config.serve import ServeConfig
from beit.errors import ConfigError
from beit.serve.server import read_key, read_names
from served import HEAD, PATIENT, SECRET, code_of, png, serving, wait_for, write_artifacts


def test_keys_come_from_a_file_and_are_long_enough(tmp_path, monkeypatch, caplog):
    place = tmp_path / "key"
    place.write_text(f"{SECRET}\n")
    limits = ServeConfig(key_file=str(place))
    assert read_key(limits) == SECRET
    for content in ("short", "", "a key with spaces in it"):
        place.write_text(content)
        with pytest.raises(ConfigError, match="is not a key"):
            read_key(limits)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(ServeConfig(key_file=str(tmp_path / "none")))
    open_to_all = ServeConfig(host="0.0.0.0", allow_host=("a",))  # noqa: S104
    assert read_key(open_to_all) == ""
    assert "whoever reaches 0.0.0.0 can use the models" in caplog.text
    caplog.clear()
    monkeypatch.setenv("BEIT_API_KEY", SECRET)
    assert read_key(open_to_all) == SECRET
    assert read_key(ServeConfig()) == SECRET
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("reference", "name"),
    [("runs/birds", "birds"), ("runs/birds/model/", "birds"), ("hf:owner/beit@v1", "beit"),
     ("a=runs/birds", "a"), ("my birds.pth", "my-birds"), ("runs/v1.5", "v1.5"), ("é", "model")],
)  # fmt: skip
def test_a_single_model_has_the_name_of_its_run(reference, name):
    assert list(read_names([reference])) == [name]


def test_a_full_queue_is_said_at_once_and_stopping_loses_nothing(artifacts, environment):
    name = str(artifacts["classifier"])
    with serving(name, *PATIENT, "--queue", "4", "--deadline", "240",
                 environment=environment) as running:  # fmt: skip
        found = []
        worker = running.worker
        os.kill(worker, signal.SIGSTOP)  # so that those who wait, wait

        def ask(number):
            found.append(running.ask("POST", "/predict", png(number)))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(found) == 8)
        assert {code_of(answer) for answer in found} == {(429, "queue_full")}
        assert {answer[2]["retry-after"] for answer in found} == {"1"}
        os.kill(worker, signal.SIGTERM)  # as a service manager tells the whole group
        running.process.send_signal(signal.SIGTERM)  # four wait for their batch
        os.kill(worker, signal.SIGCONT)
        for thread in threads:
            thread.join()
        assert [status for status, _, _ in found].count(200) == 4
        assert running.process.wait(240) == 0
        log = running.log()
    assert "Traceback" not in log


def refuses(server):
    try:
        socket.create_connection(("127.0.0.1", server.port)).close()
    except ConnectionRefusedError:
        return True
    return False


def has_read_all(connection):
    """Whether the other end has taken all that was sent: nothing lies in its queue."""
    (_, here), (_, there) = connection.getsockname(), connection.getpeername()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if (int(local[-4:], 16), int(remote[-4:], 16)) == (there, here):
            return int(queues.partition(":")[2], 16) == 0
    return False


def test_a_request_that_has_begun_is_answered_after_the_door_closed(artifacts, environment):
    image = png(0)
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(image) + image
    with serving(str(artifacts["classifier"]), *PATIENT, environment=environment) as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=240) as connection:
            connection.sendall(request[:20])
            wait_for(lambda: has_read_all(connection))
            running.process.send_signal(signal.SIGTERM)
            wait_for(lambda: refuses(running))
            connection.sendall(request[20:])
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in head.lower().split(b"\r\n")
        assert len(json.loads(body)["labels"]) == 3
        assert running.process.wait(240) == 0


def test_a_second_signal_ends_it_and_the_log_holds_no_line_of_the_client(artifacts, environment):
    with serving(str(artifacts["classifier"]), environment=environment) as running:
        assert running.ask("GET", "/a%0d%0aforged%1b[31m")[0] == 404
        running.process.send_signal(signal.SIGTERM)
        assert running.stop() in (0, 128 + signal.SIGTERM)
        log = running.log()
    assert log.startswith("loading classifier\n")
    assert '"/a\\r\\nforged\\u001b[31m"' in log
    assert "\x1b" not in log


def refused(arguments, environment):
    command = [sys.executable, "-m", "beit.cli", "serve", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def test_damaged_artifacts_are_never_served(artifacts, environment, tmp_path):
    place = write_artifacts(tmp_path)["classifier"]
    weights = place / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    done = refused([str(place)], environment)
    assert done.returncode == 4
    assert "serving" not in done.stdout


def test_numbers_that_are_not_finite_fail_the_self_test(environment, tmp_path):
    from beit.weights.load import open_artifact
    from beit.weights.store import save_artifact

    found = open_artifact(write_artifacts(tmp_path)["classifier"])
    found.model.head.bias.data.fill_(float("nan"))
    place = save_artifact(tmp_path / "nan", found.model, found.details)
    done = refused([str(place)], environment)
    assert done.returncode == 4
    assert "not_finite" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no artifact was given"),
        (["a", "b"], "has no name"),
        (["a=x", "a=y"], "two artifacts are called 'a'"),
        (["a", "--host", "0.0.0.0"], "no name is allowed"),  # noqa: S104
        (["a", "--queue", "0"], "queue is 0"),
        (["a", "--allow-origin", "example.org"], "is not an origin"),
    ],
)
def test_wrong_options(arguments, message, capsys):
    assert main(["serve", *arguments]) == 2
    assert message in "".join(capsys.readouterr())


def test_without_the_extra(environment, tmp_path):
    (tmp_path / "fastapi.py").write_text("raise ImportError('no fastapi')\n")
    path = f"{tmp_path}{os.pathsep}{environment['PYTHONPATH']}"
    done = refused(["a"], environment | {"PYTHONPATH": path})
    assert done.returncode == 6
    assert 'pip install "beit[serve]"' in done.stderr
