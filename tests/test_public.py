"""The public names, all of them and no others."""

from __future__ import annotations

import inspect

import pytest

import beit

NAMES = {
    "Predictor", "__version__", "evaluate", "export", "finetune", "load", "optimize_for_inference",
    "pretrain", "probe", "push_to_hub", "segment", "tokenizer",
}  # fmt: skip


def test_the_public_names_are_these():
    assert set(beit.__all__) == NAMES
    assert sorted(beit.__all__) == list(beit.__all__)


@pytest.mark.parametrize("name", sorted(NAMES - {"__version__"}))
def test_every_name_resolves_to_something_documented(name):
    value = getattr(beit, name)
    assert value.__name__.lower() == name.lower()
    assert inspect.getdoc(value)


def test_star_import():
    names: dict[str, object] = {}
    exec("from beit import *", names)  # noqa: S102
    assert set(names) - {"__builtins__"} == NAMES


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        beit.pretrian  # noqa: B018
