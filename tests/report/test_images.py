"""Images of a report: what is shown is what the models say."""

from __future__ import annotations

import base64
import io
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from beit.batch import MaskedBatch
from beit.config import BlockMasking, MaskedConfig, PretrainRunConfig
from beit.config.masking import FixedMasking
from beit.data.dataset import open_source
from beit.errors import ConfigError
from beit.models.features import attention_maps
from beit.objectives.masked import MaskedImageModeling
from beit.objectives.reconstruction import Reconstruction, reconstruct, unpatchify
from beit.objectives.targets import patchify
from beit.report import classification
from beit.report.classification import Predicted, confusions
from beit.report.inputs import FEWEST, RunModel, batches, best_typical_worst
from beit.report.page import changed_options, command
from beit.report.pretraining import STRIP_ROWS, ZOOM, CentralMasks, queries, write_strip
from beit.report.tokenizer import Encoded, vocabulary
from beit.tasks.finished import report_run
from beit.training.run_folder import read_run_config
from beit.visualize import data_uri, heat, hide, judge, mark, per_pixel, to_rgb, token_map
from beit.weights.store import Details, load_artifact


def decoded(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


@pytest.fixture(scope="module")
def pretrained(runs):
    return load_artifact(runs.pretraining).model, load_artifact(runs.tokenizer).model


@pytest.fixture(scope="module")
def batch(runs, pretrained):
    config = read_run_config(runs.pretraining)
    view = CentralMasks(config, pretrained[1])
    return next(batches(MaskedBatch, open_source(str(runs.data)), view, 3))


def test_attention_rows_sum_to_one_and_explain_the_block(pretrained, batch):
    backbone = pretrained[0].backbone
    first, last = attention_maps(backbone, batch.images[:2], [0, 3])
    tokens = 1 + backbone.config.patches
    assert last.shape == (2, backbone.config.heads, tokens, tokens)
    torch.testing.assert_close(last.sum(dim=-1), torch.ones(last.shape[:-1]))
    assert not torch.equal(first, last)
    with torch.no_grad():
        backbone(batch.images[:1])  # the hooks are gone
    assert not any(block._forward_pre_hooks for block in backbone.blocks)


def test_query_patches_lie_on_the_grid():
    assert queries((8, 8)) == [2 * 8 + 2, 4 * 8 + 5, 6 * 8 + 3]
    assert queries((1, 1)) == [0]


def test_visible_places_keep_their_tokens():
    target, answer = torch.arange(6), torch.full((6,), 9)
    hidden = torch.tensor([True, False, False, True, False, False])
    image = torch.zeros(3, 4, 6, dtype=torch.uint8)
    one = Reconstruction("a.png", image, hidden, target, answer, 0.0)
    assert one.filled.tolist() == [9, 1, 2, 9, 4, 5]


def test_guesses_agree_with_the_objective(pretrained, batch):
    model, tokenizer = pretrained
    found = reconstruct(model, tokenizer, batch)
    objective = MaskedImageModeling(model, MaskedConfig(), tokenizer)
    expected = objective(batch, 0.0).terms["accuracy"]
    assert np.mean([one.score for one in found]) == pytest.approx(float(expected), abs=1e-6)
    assert all(torch.equal(one.hidden, mask) for one, mask in zip(found, batch.mask, strict=True))


def test_a_mask_that_hides_nothing_asks_for_everything(pretrained, batch):
    none = batch._replace(mask=torch.zeros_like(batch.mask))
    assert all(bool(one.hidden.all()) for one in reconstruct(*pretrained, none))


def test_pixel_guesses_agree_with_the_objective(runs):
    model = load_artifact(runs.pixels).model
    config = read_run_config(runs.pixels)
    source = open_source(str(runs.data))
    batch = next(batches(MaskedBatch, source, CentralMasks(config, None), 3))
    found = reconstruct(model, None, batch)
    loss = MaskedImageModeling(model, config.objective, None)(batch, 0.0).terms["loss"]
    assert -np.mean([one.score for one in found]) == pytest.approx(float(loss), rel=1e-5)
    again = unpatchify(found[0].target, model.backbone)
    torch.testing.assert_close(again, batch.images[0].float() / 255, atol=1e-6, rtol=0)


def test_the_view_of_the_report_has_no_chance(runs, pretrained):
    config = replace(read_run_config(runs.pretraining), evaluation_crop=1.0)
    view = CentralMasks(config, pretrained[1])
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    sample = view(image, None, random.Random(0))
    assert torch.equal(sample.images[0].permute(1, 2, 0), torch.from_numpy(image[:, 8:40]))


def test_the_view_of_the_report_is_the_crop_of_the_evaluation(runs, pretrained):
    config = replace(read_run_config(runs.pretraining), evaluation_crop=0.5)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    sample = CentralMasks(config, pretrained[1])(image, None, random.Random(0))
    assert torch.equal(sample.images[0].permute(1, 2, 0), torch.from_numpy(image[16:48, 16:48]))


def test_a_strip_is_one_image_of_rows(runs, tmp_path):
    place = write_strip(runs.pretraining, tmp_path / "strip.png")
    with Image.open(place) as strip:
        assert strip.size == (5 * (ZOOM * 32 + 12), STRIP_ROWS * (ZOOM * 32 + 12))
    with pytest.raises(ConfigError, match="not a pre-training run"):
        write_strip(runs.tokenizer, tmp_path / "other.png")


def test_images_become_png_that_are_not_too_large():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert (np.array(decoded(data_uri(pixels))) == pixels).all()
    assert decoded(data_uri(np.zeros((512, 256, 3), np.uint8))).size == (64, 128)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels_can_be_shown(channels):
    image = torch.full((channels, 4, 6), 0.5)
    assert to_rgb(image).shape == (4, 6, 3)
    assert (to_rgb(image)[..., 0] == 128).all()


def test_overlays_touch_the_right_patches():
    image, grid = np.full((4, 6, 3), 200, np.uint8), (2, 3)
    mask = torch.tensor([True, False, False, False, False, True])
    hidden = (hide(image, mask, grid) != 200).any(axis=2)
    assert hidden[:2, :2].all()
    assert hidden[2:, 4:].all()
    assert hidden.sum() == 8
    assert (per_pixel(mask.numpy(), grid, (4, 6)) == hidden).all()
    judged = judge(image, mask, torch.tensor([True] + [False] * 5), grid)
    assert judged[0, 0, 1] > judged[0, 0, 0]  # teal
    assert judged[3, 5, 0] > judged[3, 5, 2]  # orange
    assert len(np.unique(judged[0, 2:])) == 1  # grey
    assert (mark(image, 0, grid)[3, 4:] == 200).all()
    assert heat(image, mask.float(), grid)[0, 0].sum() > heat(image, mask.float(), grid)[0, 3].sum()


def test_each_code_has_its_colour():
    tokens = torch.tensor([0, 1, 1, 0])
    shown = token_map(tokens, (2, 2), 64)
    assert (shown[0, 0] == shown[1, 1]).all()
    assert (shown[0, 0] != shown[0, 1]).any()


def test_the_vocabulary_is_the_mean_of_its_patches(runs):
    image = torch.arange(3 * 4 * 4, dtype=torch.uint8).reshape(3, 4, 4)
    one = Encoded("a", image, torch.tensor([2, 2, 0, 2]), image, 0.0)
    found = vocabulary([one], codes=4, stride=2)
    assert found.counts.tolist() == [1, 0, 3, 0]
    patches = patchify(image[None].float() / 255, 2)[0]
    torch.testing.assert_close(found.means[2], patches[[0, 1, 3]].mean(dim=0))


def test_the_surest_answers_come_first():
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]])
    reads = Details(classes=("cat", "dog"))
    keys = ("a", "b", "c", "d")
    found = Predicted(probabilities.log(), torch.tensor([0, 0, 1, 0]), keys, reads)
    assert found.surest(right=True) == [0, 2]
    assert found.surest(right=False) == [1, 3]
    assert [(bar.name, bar.is_true, bar.is_given) for bar in found.bars(1)] == [
        ("dog", False, True), ("cat", True, False),
    ]  # fmt: skip


def test_confusions_are_named(monkeypatch):
    confusion = torch.tensor([[5, 1, 0], [0, 4, 0], [0, 3, 0]])
    shown = confusions(confusion, ("a", "<b>", "c"))
    assert 'title="c answered as &lt;b&gt;: 3"' in shown
    assert shown.count('class="hit"') == 2
    monkeypatch.setattr(classification, "MOST_CLASSES", 2)
    listed = confusions(confusion, ("a", "<b>", "c"))
    assert listed.index("3 of 3") < listed.index("1 of 6")


def test_large_models_see_fewer_images():
    model, cpu = torch.nn.Linear(1000, 1000), torch.device("cpu")
    opened = RunModel(model=model, details=Details(), device=cpu)
    assert opened.affordable(10, 64) == 64
    assert opened.affordable(10_000_000, 64) == FEWEST


def test_best_typical_and_worst_are_told_apart():
    found = best_typical_worst([0.5, 0.9, 0.1, 0.6, 0.4, 0.7, 0.2], 1)
    assert found == [("typical", 0), ("best", 1), ("worst", 2)]
    assert best_typical_worst([0.1, 0.9], 2) == [("", 1), ("", 0)]


def test_the_command_names_what_differs_from_the_recipe(runs):
    config = read_run_config(runs.classifier)
    changed = changed_options("finetune", config)
    assert changed["training.steps"] == 4
    assert not [name for name in changed if name.startswith("model.")]  # it comes from --init
    text, missing = command("finetune", config)
    assert text.startswith("beit finetune tiny")
    assert "--evaluate-every 2" in text
    assert f"--init {runs.pretraining}" in text
    assert not missing


def test_what_the_command_line_cannot_say_is_told(runs):
    from dataclasses import replace

    config = read_run_config(runs.pretraining)
    assert isinstance(config, PretrainRunConfig)
    for masking in (BlockMasking(), FixedMasking(hidden_patches=(1, 2))):
        text, missing = command("pretrain", replace(config, masking=masking))
        assert missing == ["masking"]
        assert "--hidden-patches" not in text


def test_a_foreign_recipe_is_not_imported(runs, tmp_path, read):
    run = shutil.copytree(runs.tokenizer, tmp_path / "run")
    place = run / "config.json"
    place.write_text(place.read_text().replace('"recipe": "tiny"', '"recipe": "no.such:module"'))
    assert "The recipe is not part of this package" in read(report_run(run)).words
