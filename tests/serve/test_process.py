"""The process of the models dies or hangs: who asked is told, and it is replaced."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import indent

import pytest

from beit.serve.server import _reserve
from beit.weights.store import Details, save_artifact
from served import png, serving, wait_for, write_classifier


@pytest.fixture
def artifact(tmp_path):
    return write_classifier(tmp_path / "classifier")


def beginning_with(code, folder, environment):
    """An environment in which the process of the models first runs this code."""
    (folder / "sitecustomize.py").write_text(
        f"import sys\nif 'beit.serve.worker' in sys.orig_argv:\n{indent(code, '    ')}"
    )
    path = f"{folder}{os.pathsep}{environment['PYTHONPATH']}"
    return environment | {"PYTHONPATH": path}


def code(answer):
    status, body, _ = answer
    return status, body["error"]["code"]


def exists(process):
    return Path(f"/proc/{process}").exists()


def test_it_is_replaced_when_it_dies(artifact, tmp_path, environment, monkeypatch):
    """By one that knows the code that the user named, as it did itself."""
    docs = str(Path(__file__).parents[2] / "docs")
    monkeypatch.syspath_prepend(docs)
    from own import greys

    own = save_artifact(tmp_path / "greys", greys(), Details())
    path = f"{docs}{os.pathsep}{environment['PYTHONPATH']}"
    waiting = ["--wait", "60", "--batch", "64", "--deadline", "100"]
    with serving(
        f"classifier={artifact}", f"greys={own}", *waiting, before=["--import", "own"],
        environment=environment | {"PYTHONPATH": path},
    ) as running:  # fmt: skip
        assert abilities(running)["greys"] == ["tokens"]
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(running.ask, "POST", "/predict", png(1)) for _ in range(4)]
            wait_for(lambda: running.number("beit_requests_waiting") == 4)
            os.kill(running.worker, signal.SIGKILL)
            answers = [one.result() for one in asked]
        assert {code(answer) for answer in answers} == {(503, "restarting")}
        assert {answer[2]["retry-after"] for answer in answers} == {"1"}
        wait_for(running.is_well)
        assert running.number("beit_models_restarts_total") == 1
        assert running.number("beit_requests_waiting") == 0
        assert running.ask("GET", "/ready")[0] == 200
        assert abilities(running)["greys"] == ["tokens"]
        assert running.stop() == 0
        assert "was killed by signal 9" in running.log()


def abilities(running):
    """What each model can do, by name."""
    return {one["name"]: one["abilities"] for one in running.ask("GET", "/models")[1]["models"]}


@pytest.mark.slow
def test_it_is_replaced_when_it_hangs_and_does_not_outlive_the_server(artifact, environment):
    with serving(str(artifact), "--deadline", "10", environment=environment) as running:
        hung = running.worker
        os.kill(hung, signal.SIGSTOP)
        assert code(running.ask("POST", "/predict", png(1))) == (504, "deadline")
        wait_for(lambda: not exists(hung))
        wait_for(running.is_well)
        assert running.number("beit_models_restarts_total") == 1
        assert running.ask("POST", "/predict", png(1))[0] == 200
        worker = running.worker
        running.process.kill()
        wait_for(lambda: not exists(worker))


FAILING = """
import torch
from beit.tasks.finetuning import FINETUNE
well = FINETUNE.abilities['predict']
def predict(self, views, options):
    if options["top"] == 2:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")
    return well.answer(self, views, options)
FINETUNE.abilities['predict'] = well._replace(answer=predict)
"""


@pytest.mark.slow
def test_it_is_replaced_when_its_accelerator_fails(artifact, tmp_path, environment):
    """No call to it in that process would succeed any more."""
    failing = beginning_with(FAILING, tmp_path, environment)
    with serving(str(artifact), environment=failing) as running:
        assert code(running.ask("POST", "/predict?top=2", png(1))) == (503, "restarting")
        wait_for(running.is_well)
        assert running.number("beit_models_restarts_total") == 1
        assert running.ask("POST", "/predict", png(1))[0] == 200
        log = running.log()
        assert "device-side assert" in log
        assert "ended with code 6" in log


def test_a_start_that_hangs_is_an_error(artifact, tmp_path, environment):
    hanging = beginning_with("import time\ntime.sleep(1000)", tmp_path, environment)
    command = [sys.executable, "-m", "beit.cli", "serve", str(artifact), "--start-deadline", "2"]
    done = subprocess.run(command, env=hanging, capture_output=True, text=True, timeout=240)
    assert done.returncode == 6
    assert "was not ready after 2 seconds" in done.stderr
    assert "--start-deadline" in done.stderr


def test_a_request_to_stop_while_models_load_ends_it_at_once(artifact, tmp_path, environment):
    said = tmp_path / "said"
    os.mkfifo(said)
    code = f"import os, time\nopen({str(said)!r}, 'w').write(str(os.getpid()))\ntime.sleep(1000)"
    command = [sys.executable, "-m", "beit.cli", "serve", str(artifact), "--port", "0"]
    hanging = beginning_with(code, tmp_path, environment)
    with subprocess.Popen(command, env=hanging, stderr=subprocess.PIPE, text=True) as server:
        worker = said.read_text()
        server.terminate()
        assert server.communicate()[1] == "loading classifier\ninterrupted\n"
        assert server.returncode == -signal.SIGTERM
        assert not exists(worker)


HANGING_ONCE = """
import os, time
if os.path.exists({flag!r}):
    os.remove({flag!r})
    time.sleep(1000)
"""


@pytest.mark.slow
def test_a_start_that_hangs_is_tried_again(artifact, tmp_path, environment):
    flag = tmp_path / "flag"
    hanging = beginning_with(HANGING_ONCE.format(flag=str(flag)), tmp_path, environment)
    with serving(str(artifact), "--start-deadline", "30", environment=hanging) as running:
        flag.touch()
        os.kill(running.worker, signal.SIGKILL)
        wait_for(lambda: not running.is_well())
        wait_for(running.is_well)
        assert not flag.exists()
        assert running.number("beit_models_restarts_total") == 2  # it died, and a start hung
        assert "was not ready after 30 seconds" in running.log()
        assert running.ask("POST", "/predict", png(1))[0] == 200


@pytest.mark.slow
def test_the_server_ends_when_it_cannot_be_replaced(artifact, environment):
    with serving(str(artifact), environment=environment) as running:
        shutil.rmtree(artifact)
        os.kill(running.worker, signal.SIGKILL)
        wait_for(lambda: not running.is_well())
        assert running.process.wait(250) == 4
        assert "not a hub id" in running.log()


def test_small_packets_are_not_held_back():
    """Accepted connections inherit the protocol, and only then does asyncio set TCP_NODELAY."""
    with _reserve("127.0.0.1", 0) as door:
        assert door.proto == socket.IPPROTO_TCP
