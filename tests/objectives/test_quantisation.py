"""Training quantised tokenizers: the losses restated, the codebook's upkeep, the whole run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from beit.batch import ImageBatch
from beit.config import (
    DiscreteVAEConfig,
    QuantiseConfig,
    RandomProjectionConfig,
    ReconstructConfig,
    TokenizerRunConfig,
    TrainingConfig,
    VQConfig,
    VQKDConfig,
)
from beit.errors import ConfigError
from beit.models.heads import MaskedImageModel
from beit.objectives.tokenizer import VQDistillation, VQReconstruction
from beit.recipes.tokenizers import RECIPES
from beit.tokenizers import build_tokenizer
from beit.tokenizers.teachers import OurTeacher
from beit.tokenizers.vq import VQTokenizer
from miniature import BACKBONE, draw_images
from reference import close

PARTS = VQKDConfig(
    size=BACKBONE.size, patch=BACKBONE.patch, width=24, depth=2, decoder_depth=1, heads=2,
    hidden=48, codes=32, codebook_width=6, teacher_width=BACKBONE.width,
)  # fmt: skip
PIXELS = VQConfig(
    size=PARTS.size, patch=PARTS.patch, width=24, depth=2, decoder_depth=1, heads=2, hidden=48,
    codes=32, codebook_width=6,
)  # fmt: skip


def teacher(backbone=BACKBONE) -> OurTeacher:
    torch.manual_seed(5)
    return OurTeacher("ours", MaskedImageModel(backbone, 7))


def distill(**options: object) -> VQDistillation:
    torch.manual_seed(0)
    return VQDistillation(build_tokenizer(PARTS), QuantiseConfig(**options), teacher(), seed=3)


def batch() -> ImageBatch:
    return ImageBatch(draw_images(), ())


def test_cosine_and_commitment_are_added():
    objective = distill(commitment_weight=0.5).eval()
    total, terms = objective(batch(), 0.0)
    pixels = batch().images / 255
    values, commitment, tokens = objective.model(pixels)
    features = objective.teacher(pixels, PARTS.grid)
    cosines = (values * features).sum(-1) / (values.norm(dim=-1) * features.norm(dim=-1))
    close(terms["reconstruction"], 1 - cosines.mean(), 1e-5)
    close(total, 1 - cosines.mean() + 0.5 * commitment, 1e-5)
    assert terms["codes_in_use"] == len(tokens.unique())
    assert not any(value.requires_grad for value in terms.values())


def test_pixels_of_each_patch_are_repainted():
    objective = VQReconstruction(build_tokenizer(PIXELS), QuantiseConfig(), seed=0).eval()
    images = batch().images
    _, terms = objective(batch(), 0.0)
    values = objective.model(images / 255).values
    patch, (height, width) = PIXELS.patch, PIXELS.grid
    for row in range(height):
        for column in range(width):
            top, left = row * patch, column * patch
            square = images[:, :, top : top + patch, left : left + patch] / 127.5 - 1
            wrong = values[:, row * width + column] - square.flatten(1)
            values[:, row * width + column] = wrong
    close(terms["reconstruction"], values.square().mean(), 1e-5)


def test_what_is_painted_is_what_was_rebuilt():
    tokenizer = build_tokenizer(PIXELS).eval()
    assert isinstance(tokenizer, VQTokenizer)
    assert tokenizer.can_decode
    images = batch().images
    painted = tokenizer.decode(tokenizer.encode(images))
    assert painted.shape == images.shape
    values = tokenizer(images / 255).values
    patch = PIXELS.patch
    corner = painted[:, :, :patch, patch : 2 * patch].flatten(1)
    close(corner, ((values[:, 1] + 1) / 2).clamp(0, 1), 1e-6)


def test_only_the_tokenizer_learns_and_the_codes_follow(unchecked):
    objective = distill(revive_every=2)
    objective.train()
    assert not any(module.training for module in objective.teacher.modules())
    frozen = {name: value.clone() for name, value in objective.teacher.state_dict().items()}
    optimizer = torch.optim.Adam(objective.model.parameters(), lr=3e-3)
    losses = []
    for step in range(60):
        total, terms = objective(batch(), 0.0)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        events = objective.after_step(step)
        assert ("codes_revived" in events) == (step % 2 == 1)
        start = objective.model.quantize.embedding.embed_avg  # the codes that k-means found
        losses.append(float(terms["reconstruction"]))
    assert not torch.equal(start, objective.model.quantize.embedding.weight)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    for name, value in objective.teacher.state_dict().items():
        assert torch.equal(value, frozen[name]), name
    assert not any(p.requires_grad for p in objective.teacher.parameters())


def test_without_revival_dead_codes_stay():
    objective = distill(revive_every=0).train()
    objective(batch(), 0.0)
    assert objective.after_step(0) == {}


def test_a_step_that_is_done_again_starts_the_codes_again():
    """As after an overflow of fp16 in the first step: the buffers are put back."""
    objective = distill().train()
    before = {name: value.clone() for name, value in objective.model.named_buffers()}
    objective(batch(), 0.0)
    once = objective.model.quantize.embedding.weight.clone()
    for name, value in objective.model.named_buffers():
        value.copy_(before[name])
    objective(batch(), 0.0)
    assert objective.model.quantize.embedding.initted == 1
    assert torch.equal(objective.model.quantize.embedding.weight, once)


def test_decay_spares_vectors_tokens_and_positions():
    names = distill().without_decay()
    for part in ("encoder", "decoder"):
        assert {f"{part}.cls_token", f"{part}.pos_embed", f"{part}_norm.weight"} <= names
        assert f"{part}.blocks.0.mlp.fc1.weight" not in names
        assert f"{part}.blocks.0.mlp.fc1.bias" in names


def test_teachers_that_do_not_fit():
    wide = build_tokenizer(replace(PARTS, teacher_width=5))
    with pytest.raises(ConfigError, match=r"have 24 values, and the tokenizer rebuilds 5"):
        VQDistillation(wide, QuantiseConfig(), teacher(), seed=0)
    grey = teacher(replace(BACKBONE, channels=1, mean=(0.5,), std=(0.5,)))
    with pytest.raises(ConfigError, match="reads 1 channels, the tokenizer 3"):
        VQDistillation(build_tokenizer(PARTS), QuantiseConfig(), grey, seed=0)


def test_objectives_belong_to_their_tokenizers():
    training = TrainingConfig(steps=1, batch=1, lr=1e-3)
    vae = DiscreteVAEConfig(size=(32, 32))
    for tokenizer, objective in ((PARTS, ReconstructConfig()), (vae, QuantiseConfig())):
        with pytest.raises(ConfigError, match="is not trained by"):
            TokenizerRunConfig(tokenizer=tokenizer, objective=objective, training=training)
    with pytest.raises(
        ConfigError, match=r"a RandomProjectionConfig is not trained\n.*--tokenizer"
    ):
        TokenizerRunConfig(tokenizer=RandomProjectionConfig(), training=training)
    with pytest.raises(ConfigError, match="a VQConfig has none"):
        TokenizerRunConfig(
            tokenizer=PIXELS, objective=QuantiseConfig(), training=training, teacher="clip"
        )


@pytest.mark.parametrize("options", [{"commitment_weight": -1.0}, {"revive_every": -1}])
def test_wrong_options(options):
    with pytest.raises(ConfigError, match="is -"):
        QuantiseConfig(**options)


@pytest.mark.parametrize(
    ("recipe", "weights", "teacher"),
    [
        ("vqkd", 108_829_216, "clip"),
        ("vqkd-decoder1", 94_655_008, "clip"),
        ("vqkd-dino", 94_655_008 + 256 * 769, "dino"),
    ],
)
def test_published_recipes_at_full_size(recipe, weights, teacher):
    config = RECIPES[recipe]()
    with torch.device("meta"):
        model = build_tokenizer(config.tokenizer)
    assert sum(parameter.numel() for parameter in model.parameters()) == weights
    assert config.teacher == teacher
    assert model.state_dict()["quantize.embedding.weight"].shape == (8192, 32)
    assert (model.size, model.grid) == ((224, 224), (14, 14))
    training = config.training
    assert (training.lr, training.batch, training.betas) == (5e-5 * 512 / 128, 512, (0.9, 0.99))
    assert training.steps == 10 * training.warmup_steps
