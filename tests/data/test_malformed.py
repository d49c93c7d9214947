"""No file ends the process, hangs, takes much memory or passes in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from beit.config.data import LoaderConfig, ViewConfig
from beit.data.dataset import open_source
from beit.data.loader import evaluate_batches
from beit.data.transforms import SingleView
from beit.doctor.check import check
from decoding import outcomes
from malformed import Case, named_cases


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return named_cases()


def test_named_files_have_the_fate_they_must_have(cases: list[Case]) -> None:
    assert len(cases) >= 200
    found = outcomes((case.name, case.data) for case in cases)
    assert [outcome.name for outcome in found] == [case.name for case in cases], found[-1]
    wrong = [
        (outcome, case.fate)
        for case, outcome in zip(cases, found, strict=True)
        if outcome.fate not in (("read", "refused") if case.fate == "either" else (case.fate,))
    ]
    assert not wrong
    assert all(outcome.reason for outcome in found)


def test_every_bad_file_is_in_the_report(cases: list[Case], tmp_path: Path) -> None:
    small = [case for case in cases if len(case.data) < 10**5 and case.fate != "either"]
    for number, case in enumerate(small):
        (tmp_path / f"{number}.jpg").write_bytes(case.data)
    bad = {f"{number}.jpg" for number, case in enumerate(small) if case.fate == "refused"}
    found = {one.name for one in check(str(tmp_path)).findings if one.kind == "unreadable"}
    assert found == bad
    batches = evaluate_batches(
        open_source(str(tmp_path)),
        SingleView(config=ViewConfig(), size=(16, 16)),
        channels=3,
        batch=16,
        config=LoaderConfig(workers=0),
    )
    told: list[str] = []
    read: list[str] = []
    for batch in batches:
        told += [entry.key for entry in batch.unreadable]
        read += batch.keys
    assert set(told) == bad
    assert len(told) == len(bad)
    assert len(read) + len(told) == len(small)
