"""The list of published files: complete, consistent, and agreeing with timm."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import timm

from beit.config.model import HALF, IMAGENET_MEAN, IMAGENET_STD, SIZES, published_crop
from beit.weights.published import PUBLISHED, recognise_name

DOCS = Path(__file__).parents[2] / "docs"
TABLE = runpy.run_path(str(DOCS / "published.py"))["table"]()
CLASSES = {"pre-trained": 0, "intermediate": 21841, "fine-tuned": 1000, "segmenter": 150}
BY_NAME = {file.name: file for file in PUBLISHED}
SUFFIXES = {
    "ade20k": "segmenter",
    "to1k": "fine-tuned",
    "ft1k": "fine-tuned",
    "ft22k": "intermediate",
    "ft21k": "intermediate",
}
every = pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.name)


def test_names_hashes_and_ids_are_each_of_one_file():
    assert len(BY_NAME) == len(PUBLISHED) == 35
    for field in ("sha256", "hash_start", "url", "hub", "timm"):
        stated = [getattr(file, field) for file in PUBLISHED if getattr(file, field)]
        assert len(set(stated)) == len(stated) > 0, field


@every
def test_what_a_name_says(file):
    stem = file.name.removesuffix(".pth")
    if file.kind == "tokenizer":
        assert (file.mean, file.std) == (None, None)
        assert file.family in ("vqkd", "dall-e")
        return
    kind = next((kind for end, kind in SUFFIXES.items() if stem.endswith(end)), "pre-trained")
    assert file.kind == kind
    assert f"_{file.backbone}_patch{SIZES[file.backbone].patch}_" in stem
    if file.family == "ade20k":
        assert file.size == (512 if stem.startswith("beitv2") else 640)
    else:
        assert f"_{file.size}_" in stem
        assert file.family == ("beit v2" if stem.startswith("beitv2") else "beit v1")


@every
def test_what_is_stated_has_its_source(file):
    assert re.fullmatch("([0-9a-f]{64})?", file.sha256)
    assert bool(file.sha256) == bool(file.hash_source)
    assert bool(file.expected) == bool(file.source) == (file.kind in ("fine-tuned", "segmenter"))
    assert not file.expected or 50 < file.expected < 90
    assert file.url == "" or file.url.startswith("https://")
    assert file.url == "" or file.url.endswith(f"/{file.name}")
    assert file.licence


def test_pixel_statistics_by_training():
    """Trap 8 of the reference: 0.5 for v1 on ImageNet-22k, ImageNet's for all else."""
    half = {file.name for file in PUBLISHED if file.mean == file.std == HALF}
    assert half == {
        file.name for file in PUBLISHED if file.family == "beit v1" and "pt22k" in file.name
    }
    others = {(file.mean, file.std) for file in PUBLISHED if file.name not in half and file.mean}
    assert others == {(IMAGENET_MEAN, IMAGENET_STD)}
    assert len(half) == 11


def test_crops_follow_the_size():
    sizes = {file.size for file in PUBLISHED if file.kind in ("fine-tuned", "intermediate")}
    assert {(size, published_crop(size)) for size in sizes} == {
        (224, 0.875),
        (384, 1.0),
        (512, 1.0),
    }


def test_timm_knows_the_same():
    ids = {file.timm: file for file in PUBLISHED if file.timm}
    assert ids.keys() == {*timm.list_pretrained("beit_*"), *timm.list_pretrained("beitv2_*")}
    for name, file in ids.items():
        theirs = timm.get_pretrained_cfg(name)
        assert theirs is not None
        assert (theirs.mean, theirs.std) == (file.mean, file.std), name
        assert theirs.num_classes == CLASSES[file.kind]
        assert theirs.input_size == (3, file.size, file.size)


@every
def test_recognised_by_name(file):
    assert recognise_name(file.name) is file
    assert recognise_name(f"/some/folder/{file.name}") is file
    assert recognise_name(f"https://host/{file.name}?sv=2021/x#sha256={'0' * 64}") is file
    assert recognise_name(f"x{file.name}") is None
    assert recognise_name(file.name.upper()) is None
    assert recognise_name(f"{file.name}.bak") is None


@every
def test_recognised_by_hash_first(file):
    rest = "0" * (64 - len(file.hash_start))
    assert recognise_name(file.name, file.hash_start + rest) is file
    if file.sha256:
        assert recognise_name("decoder.pkl", file.sha256.upper()) is file
    if file.hash_start:
        assert recognise_name(file.name, "f" * 64) is None  # another file of that name


def test_the_page_holds_the_table():
    page = (DOCS / "notes" / "released.md").read_text()
    table = page.split("<!-- published: begin -->\n")[1].split("\n<!-- published: end -->")[0]
    assert table == TABLE, "run `python docs/published.py`"
    assert "Run by us: no" in page


def test_the_table_has_a_row_for_each_file_with_the_command_that_measures_it():
    heading, _, *rows = TABLE.splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    assert len(cells) == len(PUBLISHED)
    assert {len(row) for row in cells} == {heading.count(" | ") + 1}
    row = next(row for row in cells if "[beit_base_patch16_384_pt22k_ft22kto1k.pth]" in row[0])
    assert row[1:5] == ["beit v1, fine-tuned", "base, 384 px", "", "86.82 % top-1"]
    assert row[6] == "`beit evaluate beit_base_patch16_384_pt22k_ft22kto1k.pth --data imagenet/val`"
    assert [row[2] for row in cells if row[0].startswith("[encoder.pkl]")] == ["112 px"]
    assert all(bool(row[4]) == bool(row[6]) for row in cells)
    name = "beitv2_large_patch16_224_pt1k_ftade20k.pth"
    (row,) = [row for row in cells if name in row[0]]
    assert row[6] == f"`beit evaluate {name} --data ADEChallengeData2016 --layout ade20k`"
