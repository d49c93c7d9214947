"""Released models by the names that `beit models` lists."""

from __future__ import annotations

import json

import pytest

from beit import cli
from beit.config.model import SIZES
from beit.errors import CheckpointError
from beit.weights import fetch as fetching
from beit.weights.published import NAMES, PUBLISHED


def test_every_name_is_listed_with_what_it_is_good_for(capsys):
    assert cli.main(["models", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} == {*NAMES}
    for row in rows:
        assert row["licence"]
        assert row["good for"]
        assert row["from"].startswith(("https://", "hf:", "timm/"))
    assert cli.main(["models", "--kind", "tokenizer"]) == 0
    told = capsys.readouterr().out
    assert "dall-e" in told
    assert "beit-base-22k" not in told


def test_expectations_are_those_of_files_that_say_them():
    names = {file.name: file for file in PUBLISHED}
    for file in NAMES.values():
        if file.tuned:
            assert names[file.tuned].expected
            assert names[file.tuned].source
            assert names[file.tuned].backbone == file.backbone
        assert not file.backbone or file.backbone in SIZES


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_fetched_from_where_its_hash_is_known(monkeypatch, name):
    asked = []
    monkeypatch.setattr(fetching, "_from_hub", lambda place, known: asked.append((place, known)))
    monkeypatch.setattr(
        fetching, "_from_address", lambda place, known: asked.append((place, known))
    )
    try:
        fetching.fetch(name)
    except AttributeError:  # timm's name is put back on what the hub gave, here nothing
        assert NAMES[name].timm
    ((place, known),) = asked
    assert place.removeprefix("hf:").endswith(NAMES[name].download[0].removeprefix("hf:"))
    assert place.startswith("hf:") or len(known) in (6, 64)


def test_a_misspelt_name_is_told():
    with pytest.raises(CheckpointError, match=r"did you mean 'beit-base-22k'.*beit models"):
        fetching.fetch("beit-base-22")


def test_a_folder_of_that_name_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beit-base-22k").mkdir()
    assert fetching.fetch("beit-base-22k").path.name == "beit-base-22k"
