"""A few tries of every fault; scripts/test --long tries them by the hundred."""

from __future__ import annotations

import json

import pytest
from run import BEGIN, END, PAGE, RESULTS, TRIALS, table

QUICK = {
    "save-kills": 100,
    "live-kills": 6,
    "power-loss": 300,
    "disk-quotas": 16,
    "damaged-bytes": 200,
    "damaged-images": 300,
    "every-resume": 4,
    "stop-requests": 8,
    "rank-kills": 1,
    "served-requests": 64,
    "served-stops": 2,
    "slow-senders": 16,
    "overload": 256,
    "model-swaps": 4,
    "generated-requests": 200,
}


SLOW = {
    "rank-kills",
    "served-requests",
    "served-stops",
    "slow-senders",
    "overload",
    "model-swaps",
    "generated-requests",
}
"""Which start several processes anew."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in TRIALS]
)
def test_promises_are_kept(name, tmp_path):
    tried = 0
    for attempt in TRIALS[name].tries(tmp_path, QUICK[name]):
        attempt()
        tried += 1
    assert tried == QUICK[name]


def test_the_page_shows_what_was_found():
    shown = PAGE.read_text().split(BEGIN)[1].split(END)[0]
    assert shown.strip() == table(json.loads(RESULTS.read_text()))
