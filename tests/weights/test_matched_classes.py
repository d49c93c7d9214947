"""Outputs of a head by the names of their classes: which row is which here."""

from __future__ import annotations

import pytest

from beit.data.class_names import imagenet_classes
from beit.weights.transfer import match_classes


@pytest.mark.parametrize(
    ("there", "here", "order"),
    [
        (("a", "b"), ("a", "b"), [0, 1]),
        (("a", "b"), ("b", "a"), [1, 0]),
        (("cafe\u0301", "b"), ("b", "caf\u00e9"), [1, 0]),
        (("a", "b"), ("a", "c"), None),
        (("a", "b"), ("a", "b", "c"), None),
        (("a", "b", "c"), ("a", "b"), None),
        (("a", "a"), ("a", "b"), None),
        (("a", "a"), ("a", "a"), [0, 1]),
        (("class 0", "class 1"), ("1", "0"), [1, 0]),
        (("class 0", "class 1"), ("00", "01"), [0, 1]),
        (("class 0", "class 1"), ("1", "2"), None),
        (("class 0", "class 1"), ("cat", "dog"), None),
        (("0", "1"), ("cat", "dog"), None),
        (("cat", "dog"), ("0", "1"), None),
        ((), (), []),
    ],
)
def test_outputs_are_matched_by_name_and_never_by_count(there, here, order):
    match = match_classes(there, here)
    assert match.order == order
    assert match.order is not None or match.note


def test_classes_without_names_are_told_how_to_get_some():
    assert "--classes FILE" in match_classes(("class 0", "class 1"), ("cat", "dog")).note


def test_released_heads_are_matched_by_wordnet_ids():
    info = imagenet_classes(1000)
    names = tuple(info.index_to_description(index) for index in range(1000))
    ids = sorted(info.label_names(), reverse=True)
    match = match_classes(names, ids)
    assert [info.label_names()[row] for row in match.order] == ids
    assert match.note == "matched by WordNet ids"
    assert match_classes(names, names).order == list(range(1000))  # with its two cranes
