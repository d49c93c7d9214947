"""The runner measures a part and keeps a record; the page shows the record; goals are judged."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import goals, page, record
from benchmarks.__main__ import PARTS, main
from benchmarks.child import run
from benchmarks.race import Row
from benchmarks.record import Record

ROOT = Path(__file__).parents[2]


def row(who="peer", ratio=2.0, case="c", part="p"):
    return Row(part, case, who, "s", 2.0, 1.0, 0.1, ratio, 8.0, "fp32")


def made(*rows, quick=False, device="cpu", peaks=None):
    setting = {"quick": quick, "device": device, "threads": 1, "batch": 8, "rounds": 7}
    machine = {
        "date": "2030-01-02T03", "commit": "abc", "processor": "X", "device": "cpu", "cores": 2,
        "capability": "AVX2", "load": [0.1], "versions": {"torch": "2"},
    }  # fmt: skip
    return Record(machine=machine, setting=setting, peaks=peaks or {"fp32": 40.0}, rows=rows,
                  skipped={"unilm": "no checkout"})  # fmt: skip


REST = [part for part in PARTS if part != "masks"]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("parts", [["masks"], pytest.param(REST, marks=pytest.mark.slow)], ids=len)
def test_quick_parts_from_the_command_line(tmp_path, parts):
    """All but one in a single process: most of the time of a part goes into importing the peers."""
    out = tmp_path / "kept" / "record.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--rounds", "1", "--out", out]
    done = subprocess.run([*command, *parts], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept = record.read(out)
    assert {entry.part for entry in kept.rows} == set(parts)
    for part in parts:
        assert "beit" in {entry.who for entry in kept.rows if entry.part == part}
    for entry in kept.rows:
        assert f"| {entry.case} | {entry.who} |" in done.stdout
    assert all(entry.minimum > 0 for entry in kept.rows)
    assert kept.peaks["fp32"] > 0
    assert kept.setting["quick"] is True


def test_unknown_part_names_those_there_are():
    with pytest.raises(SystemExit, match=r"no part \['mask'\].*masks"):
        main(["mask"])


def test_record_survives_its_file(tmp_path):
    kept = made(row("beit", 1.0), row())
    kept.write(tmp_path / "a.json")
    assert record.read(tmp_path / "a.json") == kept
    assert record.records(tmp_path) == [kept]


def test_the_page_shows_the_newest_full_record():
    full, quick = made(row()), made(row(), quick=True)
    assert record.shown([full, quick]) is full
    assert record.shown([quick]) is quick
    assert record.shown([]) is None


def test_table_tells_ratio_and_share_of_the_peak():
    shown = record.table(made(row("beit", 1.0), row(ratio=2.5)))
    assert "| c | beit | 2 s | 1 s | 10% |  | 10% |  |" in shown  # 8 GFLOP in 2 s of 40 per second
    assert "| c | peer | 2 s | 1 s | 10% | 2.50 | 10% |  |" in shown
    shown = record.table(made(row("beit", 1.0)._replace(uncut=16.0)))
    assert "| c | beit | 2 s | 1 s | 10% |  | 10% | 20% |" in shown


def test_goals_are_met_missed_or_not_measurable():
    goal = goals.Goal("g", "p", "c", "peer", at_least=2.0)

    def verdict(kept, **changes):
        (found,) = goals.judge(kept, [goal._replace(**changes)])
        return goals.lines([found])[0].partition("]: ")[2]

    ours = row("beit", 1.0)
    # 8 GFLOP at 40 a second take a tenth of the peer's two seconds.
    assert verdict(made(ours, row())) == "met: 2.00, required 2, at most 10.00 here"
    assert verdict(made(ours, row(ratio=1.99))) == "missed: 1.99, required 2, at most 10.00 here"
    assert verdict(made()) == "not measured"
    assert verdict(made(row())) == "not measured"
    assert verdict(made(row()), needs="cuda") == "not measurable here: no GPU"
    assert verdict(made(row()), needs="bf16") == "not measurable here: no fast bfloat16"
    peaks = {"fp32": 1.0, "bf16": 2.0}
    assert verdict(made(ours, row(), peaks=peaks), needs="bf16").startswith("met")
    assert verdict(made(row(), quick=True)) == "not measurable here: small models"
    assert verdict(made(row(), device="cuda")) == "not measurable here: a goal for CPUs"


def test_goals_against_another_case_or_of_another_contestant():
    goal = goals.Goal("g", "p", "c", "peer", at_least=3.0, peer_case="as shipped")
    kept = made(
        row("beit", 1.0),
        row("ours too", 0.5)._replace(median=1.0, gflops=0.0),
        row(case="as shipped")._replace(median=7.0),
    )
    (found,) = goals.judge(kept, [goal])
    assert (found.word, found.ratio, found.limit) == ("met", 3.5, 35.0)
    (found,) = goals.judge(kept, [goal._replace(ours="ours too")])
    assert (found.word, found.ratio, found.limit) == ("met", 7.0, 0.0)
    assert "| g | 3 | 7.00 |  | met |" in goals.table([found])


def test_the_page_for_users_has_the_first_goal_of_each_part_that_compares_one_case():
    def found(name, part, word="met", **changes):
        return goals.Verdict(goals.Goal(name, part, "c", "peer", 2.0, **changes), word, 2.0)

    verdicts = [
        found("as shipped", "a", peer_case="d"),
        found("kept", "a", ours="ours too"),
        found("first", "a", "missed"),
        found("second", "a"),
        found("other", "b"),
    ]
    assert [each.goal.name for each in goals.headlines(verdicts)] == ["first", "other"]


def test_parts_are_measured_again():
    old = made(row(part="a", ratio=1.0), row(part="b", ratio=1.0))
    newer = made(row(part="b", ratio=2.0))
    newer.machine["commit"] = "def"
    found = old.renewed(newer)
    assert [(entry.part, entry.ratio) for entry in found.rows] == [("a", 1.0), ("b", 2.0)]
    assert "Measured again later: b at def." in page.tables_part(found)
    with pytest.raises(AssertionError, match="kind"):
        old.renewed(made(row(), quick=True))


def test_fallen_ratios_are_reported():
    old = made(row(ratio=2.0), row(ratio=1.0, case="d"))
    new = made(row(ratio=1.8), row(ratio=0.96, case="d"), row(ratio=1.0, case="new"))
    assert goals.fallen(old, new) == ["p, c, peer: 2.00 fell to 1.80"]


def test_only_records_of_one_kind_are_compared():
    full = made(row())
    assert full.kind == replace(full, rows=()).kind
    assert full.kind != made(row(), quick=True).kind


def test_goals_name_parts_and_peers():
    asked = goals.goals()
    assert {goal.part for goal in asked} <= PARTS.keys()
    assert {goal.needs for goal in asked} <= {"", "bf16", "cuda"}
    assert all(goal.at_least >= 1 for goal in asked)


def test_the_docs_show_the_record():
    kept = record.shown(record.records())
    assert kept is not None
    assert page.shown(page.GOALS) == page.goals_part(kept)
    assert page.shown(page.TABLES) == page.tables_part(kept)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak")
def test_the_peak_of_a_child_is_its_own():
    ours = bytearray(1200 * 2**20)
    ours[:: 2**12] = b"x" * len(ours[:: 2**12])
    code = "from benchmarks.child import resident_peak; print(resident_peak())"
    assert int(run(["-c", code])) < 900 * 2**20
