"""How much of a backbone is trained: what is left as it is stays bit for bit, and what is published
is a plain model."""

from __future__ import annotations

import pytest
import torch

from beit.config.runs import AdaptationConfig
from beit.models.adaptation import adapt, merged
from beit.models.heads import Classifier
from beit.models.layers import Dropping
from beit.rng import SampleRNG
from miniature import classification, draw_images, labelled_batch
from reference import close, disturb


def learned(config: AdaptationConfig) -> tuple[set[str], Classifier]:
    """Names of what two updates changed, and the model."""
    objective = classification(drop_path=0.2).train()
    disturb(objective.model)
    adapt(objective.model, config)
    before = {name: value.clone() for name, value in objective.model.state_dict().items()}
    trained = [one for one in objective.model.parameters() if one.requires_grad]
    adamw = torch.optim.AdamW(trained, lr=1e-2)
    for step in range(2):
        objective.draw(SampleRNG(0, step, 0), 8, torch.device("cpu"))
        objective(labelled_batch(step), 0.0).total.backward()
        adamw.step()
    after = objective.model.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}, objective.model


def test_a_frozen_backbone_is_left_alone():
    changed, model = learned(AdaptationConfig(freeze=True))
    assert changed == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    images = draw_images()
    model.eval()
    seen = model.backbone(images).patches
    model.train()  # no path is dropped either
    assert torch.equal(model.backbone(images).patches, seen)


def test_frozen_blocks_and_what_comes_before_them_are_left_alone():
    changed, model = learned(AdaptationConfig(freeze_blocks=1))
    assert not {name for name in changed if name.startswith("backbone.blocks.0")}
    assert not changed & {"backbone.cls_token", "backbone.pos_embed", "backbone.patch_embed.weight"}
    assert "backbone.blocks.1.attn.qkv.weight" in changed
    drops = [layer.drops for layer in model.modules() if isinstance(layer, Dropping)]
    assert drops == [False, False, True, True]


@pytest.mark.parametrize("blocks", [0, 1])
def test_low_rank_additions_are_trained_and_merged(blocks):
    changed, model = learned(AdaptationConfig(lora=2, freeze_blocks=blocks))
    inside = {name for name in changed if name.startswith("backbone.")}
    assert {name.rsplit(".", 1)[1] for name in inside} == {"up", "down"}
    assert len(inside) == 2 * 4 * (2 - blocks)
    plain = merged(model)
    assert plain.state_dict().keys() == classification().model.state_dict().keys()
    images = draw_images(1)
    close(plain.eval()(images), model.eval()(images), 1e-5)
    assert merged(plain) is plain
    assert {name for name in model.state_dict() if name.endswith("up")}  # left as it was


def test_training_begins_with_the_model_as_it_is():
    model = classification().model.eval()
    disturb(model)
    before = model(draw_images())
    adapt(model, AdaptationConfig(lora=4))
    close(model(draw_images()), before, 1e-5)  # frozen tables are added by another kernel
    name = "backbone.blocks.0.attn.qkv.parametrizations.weight.0.up"
    assert model.parameter_depth(name) == model.deepest  # layer decay is for what was learned
