"""What a run keeps beside its config, changed at every place in every way: there is a page all the
same, on which nothing of it acts."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from beit.data.account import Account, Skipped, account_from_json
from beit.report.page import RunPage, page_html
from beit.tasks.finetuning import FINETUNE
from beit.training.run_folder import read_run_config
from changes import LONG, changes, takes_long

ACCOUNT = Account(
    data="images",
    layout="one folder per class",
    images={"train": 3, "val": 1},
    classes={"train": {"a": 2, "b": 1}},
    skipped=(Skipped(reason="hidden", extension=".png", count=2, examples=("x.png",)),),
    notes=("a note",),
)


@pytest.fixture
def run(trained: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.classifier, tmp_path / "run"))


def written(page: RunPage) -> str:
    """What the page shows of the run, made quickly; nothing in it acts."""
    start = time.process_time()
    text = page_html(replace(page), [])
    quick = time.process_time() - start < LONG
    assert quick or not takes_long(lambda: page_html(replace(page), []))
    text.encode()
    assert "\x1b" not in text
    assert "\x00" not in text
    return text


def as_text(document: Any) -> str | None:
    try:
        return json.dumps(document)
    except ValueError:  # an integer of too many digits for Python, which JSON may hold
        return None


def test_every_account(run: Path) -> None:
    page, shown = RunPage(run, read_run_config(run), FINETUNE), 0
    for path, value, document in changes(json.loads(ACCOUNT.to_json())):
        text = as_text(document)
        if text is None:
            continue
        (run / "account.json").write_text(text)
        try:
            found = written(page)
        except Exception as error:
            raise AssertionError((path, repr(value)[:80])) from error
        shown += "one folder per class" in found
    assert shown > 30
    (run / "account.json").write_text("[" * 100_000)
    written(page)


def test_every_row_of_metrics(run: Path) -> None:
    page = RunPage(run, read_run_config(run), FINETUNE)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    for at in (len(lines) - 1,):
        for path, value, document in changes(json.loads(lines[at])):
            text = as_text(document)
            if text is None:
                continue
            (run / "metrics.jsonl").write_text("\n".join([*lines[:at], text, *lines[at + 1 :]]))
            try:
                written(page)
            except Exception as error:
                raise AssertionError((path, repr(value)[:80])) from error


@pytest.mark.parametrize("name", ["unreadable", "several", "shared"])
def test_every_named_image(run: Path, name: str) -> None:
    page = RunPage(run, read_run_config(run), FINETUNE)
    for path, value, document in changes({"key": "a.png", "reason": "cut"}):
        text = as_text(document)
        if text is None:
            continue
        (run / f"{name}.jsonl").write_text(text + "\n")
        try:
            written(page)
        except Exception as error:
            raise AssertionError((path, repr(value)[:80])) from error


def test_what_was_written_is_read() -> None:
    assert account_from_json(ACCOUNT.to_json()) == ACCOUNT
