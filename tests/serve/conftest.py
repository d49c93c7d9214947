"""The artifacts that servers answer with."""

from __future__ import annotations

import pytest

from served import write_artifacts


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """A small artifact of every kind, by name."""
    return write_artifacts(tmp_path_factory.mktemp("artifacts"))
