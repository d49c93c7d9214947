"""A newer model takes the place of the older one while it is asked."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import termios

import pytest

from served import serving, wait_for, write_classifier
from swaps import Clients, Versions, reload


def served_version(running, versions):
    (model,) = running.ask("GET", "/models")[1]["models"]
    answer = running.ask("POST", "/predict", versions.images[0])
    number = versions.check(answer, 0)
    assert model["version"] == versions.names[number]
    return number


@pytest.mark.slow
def test_every_answer_is_of_one_version_and_none_fails(tmp_path, environment):
    versions = Versions(tmp_path, 2)
    versions.put(0)
    with serving(str(versions.place), environment=environment) as running:
        clients = Clients(running, versions, 4)
        assert served_version(running, versions) == 0
        versions.put(1)
        assert served_version(running, versions) == 0  # until it is told
        reload(running, "done")
        assert served_version(running, versions) == 1
        versions.put(0)
        versions.damage()
        reload(running, "failed")
        assert served_version(running, versions) == 1
        for told in clients.stop():
            assert set(told) == {0, 1}
            assert told == sorted(told)  # never the older one again
        assert running.number("beit_models_restarts_total") == 0
        assert running.stop() == 0
        log = running.log()
        assert f"the artifacts were reloaded: served {versions.names[1]}" in log
        assert "is damaged" in log
        assert "Traceback" not in log


def test_where_a_terminal_is_closed_it_stops(tmp_path, environment):
    place = str(write_classifier(tmp_path / "classifier"))
    ours, theirs = pty.openpty()

    def sit_down_at_it() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    with serving(
        place,
        environment=environment,
        stdin=theirs,
        start_new_session=True,
        preexec_fn=sit_down_at_it,
    ) as running:
        os.close(theirs)
        running.process.send_signal(signal.SIGHUP)  # the terminal is there
        wait_for(lambda: running.ask("GET", "/health")[1]["reload"] == "loading")
        os.close(ours)
        assert running.process.wait(240) == 0
