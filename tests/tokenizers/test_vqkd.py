"""The tokenizer of BEiT v2: parity with the released code, its training, and no images."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from beit.batch import ImageBatch
from beit.config import MaskedConfig, VQKDConfig
from beit.errors import ConfigError
from beit.evaluation.tokenizer import tokenizer_health
from beit.models.heads import MaskedImageModel
from beit.objectives.masked import MaskedImageModeling
from beit.report.pretraining import STRIP_ROWS, ZOOM, write_strip
from beit.tasks.finished import report_run
from beit.tokenizers import build_tokenizer
from beit.tokenizers.vq import VQKDTokenizer
from beit.weights.store import Details, load_artifact, save_artifact
from miniature import BACKBONE, draw_images, masked_batch
from reference import close

SMALL = VQKDConfig(
    size=(16, 16),
    patch=4,
    width=24,
    depth=2,
    decoder_depth=1,
    heads=2,
    hidden=48,
    codes=32,
    codebook_width=6,
    teacher_width=10,
)


@pytest.fixture
def published(golden):
    """The facts and their model.

    The facts are older than the state: in between, one more training batch (of 64 vectors, as the
    counts tell) moved 53 of the 128 codes. `embed_avg` holds the codes as they were.
    """
    facts = golden("v2_vqkd")
    tokenizer = build_tokenizer(VQKDConfig(
        size=(64, 64), width=48, depth=2, decoder_depth=1, heads=3, hidden=192, codes=128,
        codebook_width=8, teacher_width=20,
    ))  # fmt: skip
    names = {name: name.replace("coder.fc_norm", "coder_norm") for name in facts["model"]}
    tokenizer.load_state_dict({names[name]: value for name, value in facts["model"].items()})
    tokenizer.quantize.embedding.weight.copy_(tokenizer.quantize.embedding.embed_avg)
    return facts, tokenizer.eval()


def test_published_tokens_and_features(published):
    """Its image is in [0, 1], as ours are; the model itself maps them to [-1, 1]."""
    facts, tokenizer = published
    assert torch.equal(tokenizer.encode(facts["image"]), facts["ids"])
    close(tokenizer.features(facts["image"]), facts["rec"], 1e-5)
    features, commitment, tokens = tokenizer(facts["image"])
    close(features, facts["rec"], 1e-5)
    assert torch.equal(tokens, facts["ids"])
    codes = facts["quantized"].flatten(2).transpose(1, 2)
    close(tokenizer.quantize.embedding.weight[tokens], codes, 1e-5)
    vectors = F.normalize(tokenizer._vectors(facts["image"]), dim=2)
    close(commitment, (vectors - codes).square().mean(), 1e-6)


@pytest.mark.parametrize(("decoder_depth", "total"), [(3, 108_829_216), (1, 94_655_008)])
def test_published_size(decoder_depth, total):
    with torch.device("meta"):
        tokenizer = build_tokenizer(VQKDConfig(decoder_depth=decoder_depth))

    def count(*parts):
        return sum(parameter.numel() for part in parts for parameter in part.parameters())

    assert count(tokenizer) == total
    assert count(tokenizer.encoder, tokenizer.encoder_norm) == 85_789_440
    if decoder_depth == 3:
        assert count(tokenizer.decoder, tokenizer.decoder_norm) == 21_440_256
    assert tokenizer.quantize.embedding.weight.shape == (8192, 32)
    assert (tokenizer.size, tokenizer.grid) == ((224, 224), (14, 14))


def test_initial_weights_are_not_cut():
    tokenizer = build_tokenizer(replace(SMALL, width=192))
    for linear in (tokenizer.encode_task_layer[0], tokenizer.decode_task_layer[0],
                   tokenizer.encoder.blocks[0].mlp.fc1):  # fmt: skip
        assert float(linear.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
        assert not linear.bias.any()


@pytest.mark.parametrize(("size", "channels"), [((16, 16), 3), ((8, 20), 2), ((24, 12), 1)])
def test_grid_and_codes(size, channels):
    tokenizer = build_tokenizer(replace(SMALL, size=size, channels=channels))
    grid = (size[0] // 4, size[1] // 4)
    assert tokenizer.grid == grid
    images = torch.randint(256, (3, channels, *size), dtype=torch.uint8)
    tokens = tokenizer.encode(images)
    assert tokens.shape == (3, grid[0] * grid[1])
    assert tokens.dtype == torch.int64
    assert 0 <= tokens.min() <= tokens.max() < 32
    assert torch.equal(tokenizer.encode(images / 255), tokens)
    assert tokenizer.features(images).shape == (3, grid[0] * grid[1], 10)


def test_another_size_than_its_own():
    tokenizer = build_tokenizer(SMALL)
    images = torch.rand(2, 3, 8, 24)
    assert tokenizer.encode(images).shape == (2, 12)
    assert tokenizer.features(images).shape == (2, 12, 10)
    with pytest.raises(ConfigError, match=r"8 x 10 .* stride 4"):
        tokenizer.encode(torch.rand(2, 3, 8, 10))


def test_use_in_training_mode_changes_nothing():
    tokenizer, images = build_tokenizer(SMALL).train(), draw_images()
    digest = tokenizer.digest()
    tokens, features = tokenizer.encode(images), tokenizer.features(images)
    tokenizer.quantize.update()
    assert not tokenizer.quantize.embedding.initted
    assert tokenizer.digest() == digest
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(tokenizer.encode(images), tokens)
        assert torch.equal(tokenizer.features(images), features)
    assert not features.requires_grad


def test_frozen_statistics_survive_the_parent():
    tokenizer = build_tokenizer(SMALL)
    tokenizer(torch.rand(4, 3, 16, 16))
    tokenizer.freeze()
    digest = tokenizer.digest()
    torch.nn.Sequential(tokenizer).train()
    tokenizer(torch.rand(4, 3, 16, 16))
    assert tokenizer.digest() == digest


def test_every_parameter_learns():
    tokenizer = build_tokenizer(SMALL)
    features, commitment, _ = tokenizer(torch.rand(4, 3, 16, 16))
    (features.square().sum() + commitment).backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_vectors_are_quantised_in_float32_under_autocast():
    tokenizer = build_tokenizer(SMALL)
    seen = []
    tokenizer.quantize.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features, commitment, _ = tokenizer(torch.rand(2, 3, 16, 16))
    assert seen[0].dtype == commitment.dtype == torch.float32
    assert features.dtype == torch.bfloat16  # the decoder goes on as asked


def test_training_rebuilds_a_teacher():
    tokenizer = build_tokenizer(SMALL)
    torch.manual_seed(1)
    images = torch.rand(16, 3, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    # The teacher sees the colour of each patch.
    teacher = (2 * images[:, :, ::4, ::4] - 1).flatten(2).transpose(1, 2) @ torch.randn(3, 10)
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=3e-3)
    cosines = []
    for step in range(80):
        features, commitment, _ = tokenizer(images)
        cosine = F.cosine_similarity(features, teacher, dim=2).mean()
        optimizer.zero_grad()
        (1 - cosine + commitment).backward()
        optimizer.step()
        tokenizer.quantize.update()
        if step % 10 == 9:
            tokenizer.quantize.revive(torch.Generator().manual_seed(step))
        cosines.append(float(cosine.detach()))
    assert sum(cosines[-5:]) / 5 > 0.8 > 2 * abs(cosines[0])
    assert len(tokenizer.encode(images).unique()) > 16


def test_masked_image_modeling_learns_its_tokens():
    batch = masked_batch(0)
    batch = batch._replace(token_images=batch.images)
    tokenizer = build_tokenizer(SMALL)
    objective = MaskedImageModeling(MaskedImageModel(BACKBONE, 32), MaskedConfig(), tokenizer)
    total, terms = objective(batch, 0.0)
    total.backward()
    assert terms["codes_in_use"] == len(tokenizer.encode(batch.images).unique())
    assert float(total.detach()) == pytest.approx(math.log(32), abs=0.05)


def test_no_images_are_painted():
    tokenizer = build_tokenizer(SMALL)
    assert not tokenizer.can_decode
    with pytest.raises(ConfigError, match=r"not images\n.*`features`"):
        tokenizer.decode(tokenizer.encode(draw_images()))


def test_health_without_images():
    health = tokenizer_health(
        build_tokenizer(SMALL), [ImageBatch(draw_images(), ())], device=torch.device("cpu")
    )
    assert math.isnan(health.psnr)
    assert health.counts.sum() == 8 * 16
    assert health.perplexity > 1


@pytest.fixture
def other_tokenizer(trained, tmp_path):
    """Copies of a tokenizer's and a pre-training's run that have this tokenizer instead."""
    run = shutil.copytree(trained.pretrained, tmp_path / "pretrained")
    backbone = load_artifact(run).model.backbone.config
    codes = load_artifact(run).model.outputs
    tokenizer = build_tokenizer(
        replace(SMALL, size=backbone.size, patch=backbone.patch, codes=codes)
    )
    place = shutil.copytree(trained.tokenizer, tmp_path / "tokenizer")
    save_artifact(place / "model", tokenizer, Details())
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"tokenizer": str(place)}))
    return place, run, backbone


def test_artifact_rebuilds_it(other_tokenizer):
    model = load_artifact(other_tokenizer[0]).model
    assert isinstance(model, VQKDTokenizer)
    assert not model.training


def test_reports_show_tokens_and_no_paintings(other_tokenizer, trained, tmp_path):
    place, run, backbone = other_tokenizer
    page = report_run(place).read_text()
    assert "Images and their tokens" in page
    assert "The tokens, a colour per code" in page
    assert re.search(r"\d codes?\b", page)
    assert "The image from its tokens" not in page
    assert "nan" not in page
    page = report_run(run).read_text()
    assert "Predicted tokens as colours" in page
    assert "tokens decoded" not in page
    assert "tokens decoded" in report_run(trained.pretrained).read_text()
    strip = write_strip(run, tmp_path / "strip.png")
    with Image.open(strip) as image:
        assert image.size == (
            3 * (ZOOM * backbone.size[1] + 12),
            STRIP_ROWS * (ZOOM * backbone.size[0] + 12),
        )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"width": 50}, "width 50 is not a multiple of 12"),
        ({"size": (230, 224)}, "size 230 is not a multiple of 16"),
        ({"codes": 8193}, "codes is 8193"),
        ({"codebook_decay": 1.5}, "codebook_decay is 1.5"),
        ({"decoder_depth": 0}, "decoder_depth is 0"),
        ({"teacher_width": 0}, "teacher_width is 0"),
    ],
)
def test_wrong_options(options, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        VQKDConfig(**options)
    assert caught.value.remedy
