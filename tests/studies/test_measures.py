"""How soon a training is as good as another, from the validation curves that both wrote."""

from __future__ import annotations

import json

import pytest

from beit.studies.measures import caught_up, converged


@pytest.fixture
def curve(tmp_path):
    """Writes a run with these accuracies on validation, one every ten steps."""

    def written(name, *values):
        run = tmp_path / name
        run.mkdir()
        rows = [
            {"step": 10 * number, "kind": "evaluate", "top1": value}
            for number, value in enumerate(values, 1)
        ]
        (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return run

    return written


def test_convergence_is_measured_against_the_end_and_catching_up_against_another(curve):
    scratch = curve("scratch", 0.02, 0.11, 0.12, 0.115)
    better = curve("better", 0.05, 0.2, 0.4, 0.5)
    worse = curve("worse", 0.01, 0.02, 0.03, 0.04)
    assert (converged(scratch), converged(better)) == (20, 40)
    assert caught_up(better, scratch) == 20
    assert caught_up(scratch, scratch) == 30
    assert caught_up(worse, scratch) == 40
    assert caught_up(scratch, worse) == 20
