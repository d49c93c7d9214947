"""Files that would run something when loaded: refused, and without a trace."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import hostile
import pytest
from written import HARMLESS

import beit

WATCH = Path(__file__).with_name("watch.py")
CASES = [
    (payload, container) for payload in hostile.payloads("") for container in hostile.CONTAINERS
]


def watched(folder, how, environment):
    """What a process under watch makes of the files of a folder."""
    command = [sys.executable, "-W", "error", str(WATCH), str(folder), how]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def reading(tmp_path_factory, environment):
    """Every payload in every container, and calls beside good weights, read by one process:
    outcomes, events, what is left."""
    folder = tmp_path_factory.mktemp("hostile")
    canary = str(folder / "canary")
    payloads = hostile.payloads(canary)
    for number, (payload, container) in enumerate(CASES):
        content = hostile.CONTAINERS[container](payloads[payload][0])
        (folder / f"{number}.file").write_bytes(content)
    for number, value in enumerate((hostile.inert(canary) | hostile.calls(canary)).values()):
        content = hostile.program(hostile.entries(weight=hostile.tensor(), args=value))
        for container, make in hostile.PLAIN_CONTAINERS.items():
            (folder / f"beside-{number}-{container}.file").write_bytes(make(content))
    for container, make in hostile.PLAIN_CONTAINERS.items():
        (folder / f"{container}.good").write_bytes(make(HARMLESS))
    before = sorted(folder.iterdir())
    found = watched(folder, "read", environment)
    assert sorted(folder.iterdir()) == before
    return found


def test_there_are_enough():
    assert len(CASES) >= 120


@pytest.mark.parametrize("payload", hostile.payloads(""))
def test_refused_without_a_trace(reading, payload):
    cause = hostile.payloads("canary")[payload][1]
    for container in hostile.CONTAINERS:
        number = CASES.index((payload, container))
        outcome, events = reading[str(number)]
        assert re.fullmatch(rf"CheckpointError: .*/{number}\.file .+\n  remedy: .+", outcome), (
            outcome
        )
        assert events == [], container
        if container in hostile.PLAIN_CONTAINERS:
            assert re.search(cause, outcome), container


@pytest.mark.parametrize("container", hostile.PLAIN_CONTAINERS)
def test_classes_of_a_training_beside_weights_stay_inert(reading, container):
    """The weights come, the object does not; a program beside them has the file refused."""
    for number, name in enumerate(hostile.inert("") | hostile.calls("")):
        outcome, events = reading[f"beside-{number}-{container}"]
        assert events == [], name
        if name in hostile.inert(""):
            assert outcome.startswith("Contents(tensors={'weight'"), name
            assert "skipped=('args',)" in outcome, name
        else:
            assert "imports" in outcome, name


RUN = {
    "os.system": "os.system",
    "subprocess.Popen": "subprocess.Popen",
    "builtins.eval": "open",
    "builtins.open": "open",
    "socket.socket": "socket.__new__",
    "protocol 0": "os.system",
    "protocol 4": "os.system",
}


@pytest.fixture(scope="module")
def running(tmp_path_factory, environment):
    """The same process, but Python's own reader of pickles: what happens when they are run."""
    folder = tmp_path_factory.mktemp("run")
    for number, payload in enumerate(RUN):
        (folder / f"{number}.file").write_bytes(
            hostile.payloads(str(folder / f"{number}.canary"))[payload][0]
        )
    return folder, watched(folder, "run", environment)


@pytest.mark.parametrize("payload", RUN)
def test_the_watch_would_see_it(running, payload):
    """The payloads are live, and the hook and the canary notice."""
    folder, found = running
    number = list(RUN).index(payload)
    events = [event.split()[0] for event in found[str(number)][1]]
    assert RUN[payload] in events
    assert (folder / f"{number}.canary").exists() or payload == "socket.socket"


def test_nothing_in_the_package_unpickles():
    """Our own reader makes no objects but those on its list. The files above cannot show that no
    other line of the package loads weights in another way, now or later; the words for it can: from
    `pickle` come names of instructions only, which are written in capitals.
    """
    loads = re.compile(
        r"(?<!\.)torch\.(load|hub|jit|package)|\bpickle\.[a-z]|\bfrom pickle\b"
        r"|Unpickler|weights_only|marshal|shelve"
    )
    for file in Path(beit.__file__).parent.rglob("*.py"):
        code = re.sub(r'""".*?"""', "", file.read_text(), flags=re.DOTALL)
        assert not loads.search(code), file
