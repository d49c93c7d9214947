"""`beit tokenizer compare`: its measures restated, its table, its page, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from beit.batch import ImageBatch
from beit.cli import main
from beit.config import RandomProjectionConfig, VQKDConfig
from beit.errors import ConfigError, RunFolderError
from beit.evaluation.tokenizer import token_histograms, token_stability
from beit.tasks.comparing import compare_tokenizers
from beit.tokenizers import build_tokenizer
from beit.weights.store import Details, save_artifact
from miniature import draw_images

CPU = torch.device("cpu")
RANDOM = RandomProjectionConfig(size=(16, 16), patch=4, codes=20, codebook_width=5)


def test_tokens_of_patches_alone_are_steady_under_crops_and_not_under_flips():
    """A random projection sees no neighbours, and a mirrored patch is another patch."""
    tokenizer, images = build_tokenizer(RANDOM), draw_images()
    found = token_stability(tokenizer, [ImageBatch(images, ())], device=CPU)
    assert found.crops == 1.0
    mirrored = tokenizer.encode(images.flip(3)).reshape(-1, 4, 4).flip(2).flatten(1)
    assert found.flips == float((mirrored == tokenizer.encode(images)).float().mean()) < 1
    symmetric = images[:, :, :, :1].expand_as(images).contiguous()
    assert token_stability(tokenizer, [ImageBatch(symmetric, ())], device=CPU).flips == 1.0


def test_neighbours_matter_to_a_transformer():
    tokenizer = build_tokenizer(VQKDConfig(
        size=(16, 16), patch=4, width=24, depth=2, decoder_depth=1, heads=2, hidden=48, codes=32,
        codebook_width=6,
    )).eval()  # fmt: skip
    assert token_stability(tokenizer, [ImageBatch(draw_images(), ())], device=CPU).crops < 1


def test_histograms_are_of_length_one():
    tokenizer, images = build_tokenizer(RANDOM), draw_images()
    rows = token_histograms(tokenizer, [ImageBatch(images, ())], device=CPU)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(images)))
    counts = torch.bincount(tokenizer.encode(images)[2], minlength=20)
    torch.testing.assert_close(rows[2].square() * 16, counts.float())


def test_one_table_and_one_page(trained, class_folders, tmp_path, capsys):
    random = save_artifact(tmp_path / "random", build_tokenizer(RANDOM), Details())
    out = tmp_path / "compared"
    args = ["tokenizer", "compare", str(trained.tokenizer), str(random), "--data",
            str(class_folders), "--out", str(out), "--images", "20"]  # fmt: skip
    assert main(args) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(printed) == 4
    first, second = json.loads((out / "tokenizers.json").read_text())
    assert (first["kind"], second["kind"]) == ("DiscreteVAE", "RandomProjection")
    assert first["psnr"] > 0
    assert second["psnr"] is None
    assert second["codes_in_use"] <= second["codes"] == 20
    page = (out / "tokenizers.html").read_text()
    assert page.count("<h2>") == 3  # the figures, and each tokenizer
    assert "from its tokens" in page
    with pytest.raises(RunFolderError, match="not empty"):
        compare_tokenizers([str(random)], data=str(class_folders), out=str(out))


@pytest.mark.parametrize("told_apart", [True, False])
def test_histograms_know_the_classes_that_the_tokens_tell_apart(told_apart, tmp_path):
    chance = np.random.default_rng(0)
    for name, least in (("dark", 0), ("light", 200 if told_apart else 0)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(16):
            pixels = chance.integers(least, least + 50, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    random = save_artifact(tmp_path / "random", build_tokenizer(RANDOM), Details())
    (row,) = compare_tokenizers(
        [str(random)], data=str(tmp_path / "data"), out=str(tmp_path / "out")
    )
    assert row.neighbours is not None
    assert (row.neighbours == 1.0) == told_apart


def test_images_without_classes(class_folders, tmp_path):
    random = save_artifact(tmp_path / "random", build_tokenizer(RANDOM), Details())
    (row,) = compare_tokenizers(
        [str(random)], data=str(class_folders / "disc"), out=str(tmp_path / "out")
    )
    assert row.neighbours is None


def test_nothing_to_compare(class_folders, tmp_path):
    for names, number in (([], 5), (["a"], 0)):
        with pytest.raises(ConfigError, match="nothing to compare"):
            compare_tokenizers(names, data=str(class_folders), out=str(tmp_path), images=number)
