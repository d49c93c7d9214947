"""The sheets of `beit show`: they say what the model says, and refuse what cannot be shown."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from beit.cli import main
from beit.data.file_types import FORMATS
from beit.errors import ConfigError
from beit.evaluation.neighbours import nearest_others
from beit.report.image_grid import Cell, Sheet, fit, wrap, write_sheet
from beit.report.inputs import Request
from beit.report.sheets import (
    HIT,
    MISS,
    attention,
    find_query,
    neighbours,
    principal_components,
    stretched,
)
from beit.weights.store import load_artifact


def requested(trained, data, images) -> Request:
    return Request(model=str(trained.pretrained), data=str(data), images=images, device="cpu")


def show(kind, model, data, out, *options) -> int:
    return main(["show", kind, str(model), "--data", str(data), "--out", str(out), *options])


@pytest.mark.parametrize("ending", ["png", "svg"])
@pytest.mark.parametrize("kind", ["neighbours", "components", "attention", "codebook"])
def test_every_kind_is_written_and_the_same_again(trained, class_folders, tmp_path, kind, ending):
    model = trained.tokenizer if kind == "codebook" else trained.classifier
    places = [tmp_path / "new" / f"{number}.{ending}" for number in range(2)]
    for place in places:
        assert show(kind, model, class_folders, place, "--images", "12") == 0
    assert places[0].read_bytes() == places[1].read_bytes()
    if ending == "png":
        with Image.open(places[0]) as image:
            image.load()
            assert np.asarray(image).std() > 10
    else:
        root = ElementTree.parse(places[0]).getroot()  # noqa: S314 - our own
        assert len([one for one in root if one.tag.endswith("image")]) > 4


def test_bad_input_is_refused_before_anything_is_written(trained, class_folders, tmp_path, capsys):
    for code, kind, model, out, *options in (
        (2, "neighbours", trained.classifier, "a.jpg"),
        (2, "neighbours", trained.classifier, "a.png", "--queries", "0"),
        (2, "neighbours", trained.tokenizer, "a.png"),
        (2, "components", trained.classifier, "a.png", "--block", "99"),
        (2, "attention", trained.classifier, "a.png", "--query", "9,99"),
        (2, "attention", trained.classifier, "a.png", "--images", "0"),
        (4, "codebook", trained.classifier, "a.png"),
    ):
        assert show(kind, model, class_folders, tmp_path / out, *options) == code, (kind, options)
        assert "remedy" in capsys.readouterr().err
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(b"rubbish")
    assert show("components", trained.classifier, tmp_path / "data", tmp_path / "a.png") == 3
    assert not list(tmp_path.glob("a.*"))


@pytest.mark.parametrize("kind", ["neighbours", "components", "attention", "codebook"])
def test_what_cannot_be_read_is_named_and_left_out(
    trained, class_folders, tmp_path, caplog, capsys, kind
):
    """A sheet of images and one that cannot be read is a sheet of the others."""
    model = trained.tokenizer if kind == "codebook" else trained.classifier
    for name in ("whole", "broken"):
        shutil.copytree(class_folders / "disc", tmp_path / name)
    (tmp_path / "broken" / "words.png").write_text("words")
    for name in ("whole", "broken"):
        out = tmp_path / f"{name}.png"
        assert show(kind, model, tmp_path / name, out, "--images", "99") == 0, capsys.readouterr()
    assert (tmp_path / "whole.png").read_bytes() == (tmp_path / "broken.png").read_bytes()
    assert [line for line in caplog.messages if "words.png" in line] == [
        "unreadable: words.png: its content is none of " + ", ".join(FORMATS)
    ]


def test_the_nearest_other_points_the_same_way():
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.2], [0.0, -1.0], [0.05, -0.9]])
    found = nearest_others(features, torch.tensor([0, 4]), 2)
    assert found.indices[:, 0].tolist() == [1, 3]
    assert (found.cosines[:, 0] >= found.cosines[:, 1]).all()
    assert nearest_others(features, torch.tensor([0]), 99).indices.shape == (1, 4)


def test_frames_tell_the_same_class(trained, class_folders):
    sheet = neighbours(requested(trained, class_folders, 36), block=1, queries=5, neighbours=4)
    assert [len(row) for row in sheet.rows] == [5] * 5
    for query, *others in sheet.rows:
        label = query.words[0].removeprefix("query · ")
        for cell in others:
            assert cell.frame == (HIT if cell.words[0].endswith(f"· {label}") else MISS)


def test_components_are_those_of_the_spread_and_their_signs_are_stable():
    chance = torch.Generator().manual_seed(0)
    hidden = torch.randn(400, 1, generator=chance)
    rows = torch.cat([hidden, hidden, -hidden, torch.randn(400, 1, generator=chance)], dim=1)
    rows = rows + 0.01 * torch.randn(400, 4, generator=chance)
    places, shares = principal_components(rows, 3)
    assert shares[0] == pytest.approx(0.75, abs=0.01)
    assert abs(float(torch.corrcoef(torch.cat([places[:, :1], hidden], 1).T)[0, 1])) > 0.999
    order = torch.randperm(400, generator=chance)
    again = principal_components(rows[order], 3).places
    assert torch.allclose(again, places[order], atol=1e-3)
    colours = stretched(places)
    assert float(colours.min()) == 0
    assert float(colours.max()) == 1


def test_attention_has_a_map_for_every_head(trained, class_folders):
    request = requested(trained, class_folders, 2)
    config = load_artifact(trained.pretrained).backbone
    assert find_query("cls", config.grid) is None
    assert find_query("1,2", config.grid) == config.grid[1] + 2
    for query in ("cls", "0,3"):
        sheet = attention(request, block=0, query=query)
        assert [len(row) for row in sheet.rows] == [config.heads + 2] * 2
    with pytest.raises(ConfigError, match="ROW,COLUMN"):
        find_query("1;2", config.grid)


def test_words_fit():
    assert fit("short", 200.0) == "short"
    shorter = fit("a-very-long-name-of-a-image-0123.png", 90.0)
    assert "\N{HORIZONTAL ELLIPSIS}" in shorter
    assert shorter.startswith("a-")
    assert shorter.endswith("png")
    lines = wrap("some words that do not fit into one line", 100.0, 13)
    assert len(lines) > 1
    assert " ".join(lines) == "some words that do not fit into one line"


def test_words_of_data_are_no_markup(tmp_path):
    cell = Cell(np.zeros((4, 6, 3), np.uint8), ("<script>&\"'",))
    text = write_sheet(Sheet("<b>", "lead", [[cell]]), tmp_path / "a.svg").read_text()
    assert "<script>" not in text
    assert "<b>" not in text
    assert ElementTree.fromstring(text).tag.endswith("svg")  # noqa: S314 - our own


def test_the_commands_of_the_page(trained, class_folders, tmp_path, monkeypatch):
    shutil.copytree(class_folders, tmp_path / "images")
    shutil.copytree(trained.pretrained, tmp_path / "runs" / "pretrain")
    shutil.copytree(trained.tokenizer, tmp_path / "runs" / "tokenizer")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "show.md").read_text()
    lines = re.findall(r"^beit (.*)$", page, re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        assert main(line.split()) == 0, line
        assert Path(line.split("--out ")[1].split()[0]).stat().st_size > 1000
