"""The models compute what the reference, timm and transformers compute, forward and backward."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from beit.config import HeadConfig
from beit.models.heads import Classifier, MaskedImageModel
from beit.models.position import resize_absolute_position, resize_relative_table
from reference import (
    FINE,
    TABLE,
    TINY,
    assert_same,
    close,
    disturb,
    from_published,
    gradients,
    to_timm,
    to_transformers,
    transformers_config,
    weights,
)


def test_published_pretraining_model(golden):
    facts = golden("mim_shared_rel")
    model = MaskedImageModel(TINY, 64)
    model.load_state_dict(from_published(facts["model"]))
    logits = model(facts["image"], facts["mask"])
    close(logits, facts["logits"], 1e-5)
    every = model(facts["image"], facts["mask"], every_position=True)
    close(every, facts["all_logits"].flatten(0, 1), 1e-5)
    loss = F.cross_entropy(logits, facts["target"])
    close(loss, facts["loss"], 1e-5)
    loss.backward()
    assert_same(gradients(model), from_published(facts["grads"]), 1e-4)


def test_published_classifier(golden):
    facts = golden("cls_rel_mean")
    model = Classifier(FINE, 7)
    model.load_state_dict(from_published(facts["model"]))
    close(model(facts["image"]), facts["logits"], 1e-5)
    close(model.embed(facts["image"]), facts["features"], 1e-5)
    taps = model.backbone(facts["image"], out_indices=range(3)).intermediates
    for ours, theirs in zip(taps, facts["intermediate"], strict=True):
        close(ours, theirs, 1e-5)


def test_published_transfer_to_another_size(golden):
    """Pre-trained at 80 pixels, fine-tuned at 112: tables resized, the shared one given to all."""
    source, facts = golden("transfer_source")["model"], golden("transfer_112")
    old, new = (5, 5), (7, 7)
    table = resize_relative_table(source[f"rel_pos_bias.{TABLE}"], old, new)
    positions = resize_absolute_position(source["pos_embed"], old, new)
    close(table, facts["model"][f"blocks.0.attn.{TABLE}"], 1e-5)
    close(positions, facts["model"]["pos_embed"], 1e-5)
    backbone = replace(FINE, size=(112, 112), depth=4, heads=6, absolute_position=True)
    model = Classifier(backbone, 9)
    tables = {f"blocks.{block}.attn.{TABLE}": table for block in range(4)}
    transferred = facts["model"] | tables | {"pos_embed": positions}
    model.load_state_dict(from_published(transferred))
    close(model(facts["image"]), facts["logits"], 1e-4)
    close(model.embed(facts["image"]), facts["features"], 1e-4)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize(
    ("relative", "absolute", "gain"),
    [("shared", True, 0.1), ("per-block", False, 0.1), ("none", True, None)],
)
def test_timm(relative, absolute, gain, pooling):
    from timm.models.beit import Beit

    backbone = replace(
        FINE,
        size=(48, 80),
        relative_position=relative,
        absolute_position=absolute,
        layer_scale=gain,
    )
    ours = Classifier(backbone, 5, HeadConfig(pooling=pooling))
    disturb(ours)
    theirs = Beit(
        img_size=(48, 80),
        num_classes=5,
        global_pool="avg" if pooling == "mean" else "token",
        embed_dim=48,
        depth=3,
        num_heads=3,
        init_values=gain,
        use_abs_pos_emb=absolute,
        use_rel_pos_bias=relative == "per-block",
        use_shared_rel_pos_bias=relative == "shared",
    )
    theirs.load_state_dict(to_timm(weights(ours), pooling))
    images, targets = torch.randn(2, 3, 48, 80), torch.tensor([1, 4])
    logits, expected = ours(images), theirs(images)
    close(logits, expected, 1e-5)
    F.cross_entropy(logits, targets).backward()
    F.cross_entropy(expected, targets).backward()
    assert_same(to_timm(gradients(ours), pooling), gradients(theirs), 1e-4)


def test_transformers_pretraining_model():
    from transformers import BeitForMaskedImageModeling

    ours = MaskedImageModel(replace(TINY, absolute_position=True), 11)
    disturb(ours)
    theirs = BeitForMaskedImageModeling(
        transformers_config(
            TINY,
            vocab_size=11,
            use_mask_token=True,
            use_absolute_position_embeddings=True,
            use_shared_relative_position_bias=True,
            use_mean_pooling=True,
        )
    )
    names = {"norm": "layernorm", "head": "lm_head"}
    theirs.load_state_dict(to_transformers(weights(ours), **names))
    images, mask = torch.randn(2, 3, 64, 64), torch.rand(2, 16) < 0.4
    targets = torch.randint(11, (int(mask.sum()),))
    logits, expected = ours(images, mask), theirs(images, mask).logits[mask]
    close(logits, expected, 1e-5)
    F.cross_entropy(logits, targets).backward()
    F.cross_entropy(expected, targets).backward()
    assert_same(to_transformers(gradients(ours), **names), gradients(theirs), 1e-4)


def test_transformers_classifier():
    from transformers import BeitForImageClassification

    ours = Classifier(FINE, 7)
    disturb(ours)
    theirs = BeitForImageClassification(
        transformers_config(FINE, use_relative_position_bias=True, num_labels=7)
    )
    names = {"norm": "beit.pooler.layernorm", "head": "classifier"}
    theirs.load_state_dict(to_transformers(weights(ours), **names))
    images, targets = torch.randn(2, 3, 64, 64), torch.tensor([0, 6])
    logits, expected = ours(images), theirs(images).logits
    close(logits, expected, 1e-5)
    F.cross_entropy(logits, targets).backward()
    F.cross_entropy(expected, targets).backward()
    assert_same(to_transformers(gradients(ours), **names), gradients(theirs), 1e-4)
