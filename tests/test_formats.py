"""What a version of this package has written, every later one reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from beit.data.dataset import open_source
from beit.training.checkpoint import newest_checkpoint
from beit.weights.store import Details, load_artifact
from formats import EXPECTED, FORMATS, PLACE, answer, state, write
from states import assert_same


def written(kind: str) -> list[Path]:
    return sorted(PLACE.glob(f"{kind}-*"))


@pytest.mark.parametrize("kind", FORMATS)
def test_the_present_format_is_among_them(kind, tmp_path):
    """`python tests/formats.py` adds it."""
    assert PLACE / f"{kind}-{FORMATS[kind]}" in written(kind)
    write(tmp_path)
    assert (tmp_path / f"{kind}-{FORMATS[kind]}").is_dir()


@pytest.mark.parametrize("place", written("artifact"), ids=lambda place: place.name)
def test_artifacts(place):
    for kind, expected in json.loads((place / EXPECTED).read_text()).items():
        artifact = load_artifact(place / kind)
        assert artifact.kind == kind
        assert artifact.details == Details(
            classes=("cat", "Übergröße"), crop=0.875, tokenizer="ab12", trained={"recipe": "tiny"}
        )
        assert answer(artifact) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("place", written("checkpoint"), ids=lambda place: place.name)
def test_checkpoints(place):
    found = newest_checkpoint(place)
    assert not found.damaged
    assert_same(found.checkpoint, state())


@pytest.mark.parametrize("place", written("shards"), ids=lambda place: place.name)
def test_shards(place, monkeypatch, tmp_path):
    monkeypatch.setenv("BEIT_HOME", str(tmp_path))
    source = open_source(str(place))
    assert source.classes == ("cat", "dog")
    assert [source.read(index).key for index in range(len(source))] == ["cat/0.png", "dog/1.png"]
    assert all(source.read(index).data.startswith(b"\x89PNG") for index in range(len(source)))
