"""Models for inference answer as the plain ones do; what they leave out, they leave out."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from beit.config import UperNetConfig
from beit.errors import ConfigError, ResourceError
from beit.models import inference
from beit.models.heads import Classifier, MaskedImageModel
from beit.models.inference import CUDAGraphs, KeptBias, optimize_for_inference
from beit.models.segmenter import Segmenter
from reference import FINE, TINY, close, disturb

MAKE = {
    "classifier": lambda: Classifier(replace(FINE, mean=(0.1, 0.5, 0.9)), 5),
    "masked": lambda: MaskedImageModel(replace(TINY, absolute_position=True), 9),
    "segmenter": lambda: Segmenter(replace(FINE, depth=4), 4, UperNetConfig(head_channels=16)),
}


def made(kind):
    model = MAKE[kind]()
    disturb(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def difference(one, other):
    return float((one - other).norm() / one.norm())


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("size", [(64, 64), (96, 64)])
def test_same_outputs(kind, size):
    model = made(kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fast = optimize_for_inference(model)
    assert type(fast) is type(model)
    assert not fast.training
    images = torch.randint(256, (2, 3, *size), dtype=torch.uint8)
    floats = model.backbone.normalise(images)
    with torch.no_grad():
        expected = model(images)
        assert difference(expected, fast(images)) < 1e-5
        assert difference(expected, fast(floats)) < 1e-5
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_masks_still_work():
    model = made("masked")
    images, mask = torch.randn(2, 3, 64, 64), torch.rand(2, 16) < 0.4
    close(optimize_for_inference(model)(images, mask), model(images, mask), 1e-4)


def test_what_is_left_out():
    fast = optimize_for_inference(made("segmenter"))
    assert fast.auxiliary_head is None
    assert not [module for module in fast.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not [name for name, _ in fast.named_parameters() if "gamma" in name]
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    assert isinstance(fast.backbone.blocks[0].attn.rel_pos_bias, KeptBias)


def test_a_bias_larger_than_the_weights_is_not_kept():
    model = Classifier(replace(FINE, size=(512, 512)), 5)
    fast = optimize_for_inference(model)
    assert not [module for module in fast.modules() if isinstance(module, KeptBias)]


@pytest.mark.parametrize("kind", MAKE)
def test_half_precision_is_close(kind):
    model = made(kind)
    fast = optimize_for_inference(model, precision="bf16")
    assert {parameter.dtype for parameter in fast.parameters()} == {torch.bfloat16}
    assert fast.backbone.mean.dtype == torch.float32
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        found = fast(images)
        assert 1e-5 < difference(model(images), found.float()) < 0.03
        assert torch.equal(found, fast(model.backbone.normalise(images)))


@pytest.mark.parametrize("quick", [True, False])
def test_automatic_precision(monkeypatch, quick):
    monkeypatch.setattr(inference, "multiplies_bfloat16", lambda device: quick)
    weight = optimize_for_inference(made("classifier"), precision="auto").head.weight
    assert weight.dtype == (torch.bfloat16 if quick else torch.float32)


def test_compiling_leaves_the_plain_model_alone(monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda part: compiled.append(part))
    fast = optimize_for_inference(made("segmenter"), compile=True)
    assert compiled == [fast.backbone, fast.neck, fast.decode_head]


@pytest.mark.filterwarnings("default")  # of torchao, about other libraries
@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("quick", [True, False])
def test_eight_bits_are_close(monkeypatch, kind, quick):
    pytest.importorskip("torchao")
    monkeypatch.setattr(inference, "multiplies_bfloat16", lambda device: quick)
    model = made(kind)
    fast = optimize_for_inference(model, precision="int8")
    linears = [module for module in fast.modules() if isinstance(module, nn.Linear)]
    assert linears
    assert all(module.weight.qdata.dtype == torch.int8 for module in linears)
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        assert 1e-4 < difference(model(images), fast(images).float()) < 0.05
    assert type(model.backbone.blocks[0].mlp.fc1.weight) is nn.Parameter


def test_eight_bits_need_their_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ResourceError, match="int8 need torchao"):
        optimize_for_inference(made("classifier"), precision="int8")


def test_graphs_are_for_a_gpu():
    with pytest.raises(ConfigError, match="not a Classifier on cpu"):
        optimize_for_inference(made("classifier"), graphs=True)


def test_elsewhere_a_replay_passes_on():
    model = made("classifier")
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(CUDAGraphs(model)(images), model(images))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
def test_a_replay_answers_as_the_model_does(kind):
    model = made(kind).cuda()
    fast = optimize_for_inference(model, graphs=True)
    first, second = torch.randint(256, (2, 3, 3, 64, 64), dtype=torch.uint8, device="cuda")
    with torch.no_grad():
        one, other = fast(first), fast(second)
        assert difference(model(first), one) < 1e-4  # not written over by the second
        assert difference(model(second), other) < 1e-4
        assert difference(model(first[:1]), fast(first[:1])) < 1e-4
