"""The script for a GPU: what its parts hand over is kept, however they end."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.gpu import __main__ as script
from benchmarks.gpu import page
from benchmarks.gpu.checks import Check, Setting, at_least, at_most, skipped

MACHINE = {
    "device": "cpu", "date": "2026-11-29T05:00:00", "commit": "abc", "processor": "two cores",
    "cores": 2, "versions": {"torch": "2.11"},
}  # fmt: skip


def record(*checks: Check, ended: str = "done") -> dict:
    part = {"seconds": 1.0, "ended": ended, "errors": [], "checks": [c._asdict() for c in checks]}
    return {"machine": MACHINE, "quick": True, "parts": {"parity": part}}


def test_what_fails_is_seen():
    good = (at_most("error", 0.1, 0.2), at_least("speed", 3, 2, "images/s"), Check("time", 1.0))
    assert not page.failed(record(*good, skipped("graphs", "no GPU")))
    assert page.failed(record(*good, at_most("error", 0.3, 0.2)))
    assert page.failed(record(*good, at_most("error", float("nan"), 0.2)))
    assert page.failed(record(*good, ended="cut off after 80 s"))


def test_the_page_has_every_check():
    text = page.written(record(at_most("error", 0.3, 0.2), skipped("graphs", "no GPU")))
    assert "| error | 0.3 | at most 0.2 | **fails** |" in text
    assert "| graphs |  |  | not run: no GPU |" in text
    assert "`scripts/gpu` at commit abc on cpu" in text


def test_lines_survive_the_record():
    check = at_most("error", torch.tensor(0.5).item(), 1.0)
    assert Check(**json.loads(check.line())) == check


@pytest.mark.slow
def test_a_part_that_breaks_is_recorded(capsys):
    found = script.started("nothing", Setting(torch.device("cpu"), quick=True))
    assert found["ended"] == "exit 1"
    assert found["checks"] == []
    assert "benchmarks.gpu.nothing" in "\n".join(found["errors"])
