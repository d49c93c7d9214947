"""Weights as trainings of today save them: any wrapper, any prefix, any library's names."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections import OrderedDict
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from foreign_names import KEYS, to_openmmlab
from torch import nn

import beit
from beit.config import HeadConfig, LinearHeadConfig, UperNetConfig
from beit.config.runs import AggregationConfig
from beit.errors import CheckpointError
from beit.models.heads import Classifier, MaskedImageModel, PretrainedBackbone
from beit.models.segmenter import Segmenter
from beit.weights.convert import published
from beit.weights.load import open_artifact
from beit.weights.overrides import Overrides
from beit.weights.store import Details, save_artifact
from reference import FINE, TINY, close, disturb

DEEP = replace(FINE, size=(64, 64), depth=4)
MODELS = {
    "masked": lambda: MaskedImageModel(TINY, 11),
    "aggregation": lambda: MaskedImageModel(
        replace(TINY, depth=4), 11, AggregationConfig(early_layer=1, blocks=2)
    ),
    "classifier": lambda: Classifier(FINE, 3),
    "classifier, cls": lambda: Classifier(FINE, 3, HeadConfig(pooling="cls")),
    "segmenter": lambda: Segmenter(DEEP, 3, UperNetConfig(auxiliary_channels=8)),
}


PREFIXES = (
    "", "module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "_orig_mod.module.model.",
    "model.backbone_and_head.", "ema_model.module.", "0.", "_forward_module.model.",
)  # fmt: skip
WRAPPERS = {
    "bare": lambda weights: weights,
    "model": lambda weights: {"model": weights, "epoch": 3, "optimizer": {"state": {}}},
    "state_dict": lambda weights: {"state_dict": weights, "hyper_parameters": {"lr": 1e-3}},
    "ordered": lambda weights: OrderedDict(model_state_dict=OrderedDict(weights)),
    "nested": lambda weights: {"checkpoint": {"net": weights}, "step": 1},
    "with average": lambda weights: {
        "model": weights,
        "model_ema": {name: torch.zeros_like(value) for name, value in weights.items()},
    },
}


@functools.cache
def model_of(family):
    torch.manual_seed(0)
    model = MODELS[family]()
    disturb(model)
    return model.eval()


def same(artifact, model):
    expected = model.state_dict()
    assert artifact.model.state_dict().keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(artifact.model.state_dict()[name], value), name


def cases():
    """Every family under every name with every prefix; wrappers turn by turn."""
    wrappers = itertools.cycle(WRAPPERS)
    for family, naming, prefix in itertools.product(MODELS, KEYS, PREFIXES):
        if not (family == "aggregation" and naming.startswith("transformers")):
            yield family, naming, prefix, next(wrappers)
    yield from (
        (family, "published", "module.model.", each) for family in MODELS for each in WRAPPERS
    )


@pytest.mark.parametrize(("family", "naming", "prefix", "wrapper"), list(cases()))
def test_any_wrapper_any_prefix_any_names(tmp_path, family, naming, prefix, wrapper):
    model = model_of(family)
    weights = KEYS[naming](published(model))
    torch.save(WRAPPERS[wrapper]({prefix + name: value for name, value in weights.items()}),
               tmp_path / "weights.pth")  # fmt: skip
    read = Overrides(out_indices=model.out_indices) if family == "segmenter" else Overrides()
    artifact = open_artifact(tmp_path / "weights.pth", overrides=read)
    same(artifact, model)
    notes = " ".join(artifact.details.trained["notes"])
    if wrapper == "with average":
        assert "the weights lie under 'model', not from 'model_ema'" in notes


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module."])
def test_tokenizers_with_prefixes(golden, tmp_path, prefix):
    weights = golden("v2_vqkd")["model"]
    plain, wrapped = tmp_path / "plain.pth", tmp_path / "wrapped.safetensors"
    torch.save(weights, plain)
    safetensors.torch.save_file(
        {prefix + name: value.contiguous() for name, value in weights.items()}, wrapped
    )
    stated = Overrides(heads=3)
    same(open_artifact(wrapped, overrides=stated), open_artifact(plain, overrides=stated).model)


@pytest.mark.parametrize(
    "wrapper", ["_orig_mod.", "_fsdp_wrapped_module._checkpoint_wrapped_module."]
)
def test_wrappers_of_single_blocks(tmp_path, wrapper):
    """Blocks that were compiled, sharded or recomputed one by one."""
    model = model_of("classifier")
    weights = {re.sub(r"^(blocks\.\d+\.)", rf"\1{wrapper}", name): value
               for name, value in published(model).items()}  # fmt: skip
    torch.save(weights, tmp_path / "weights.pth")
    same(open_artifact(tmp_path / "weights.pth"), model)


@pytest.mark.parametrize(
    ("taken", "other"),
    [
        ("model.", "ema_model."),
        ("model.", "model_ema.module."),
        ("ema_model.", "online_model."),
        ("teacher.backbone.", "student.backbone."),
        ("module.", "averaged.module."),
    ],
)
def test_of_two_networks_one_is_taken_and_said(tmp_path, taken, other):
    model = model_of("classifier")
    weights = published(model)
    both = {other + name: torch.zeros_like(value) for name, value in weights.items()}
    both |= {taken + name: value for name, value in weights.items()}
    torch.save(both | {"n_averaged": torch.tensor(3)}, tmp_path / "weights.pth")
    artifact = open_artifact(tmp_path / "weights.pth")
    same(artifact, model)
    notes = artifact.details.trained["notes"]
    assert f"the network under '{taken}' is taken, not that under '{other}'" in notes
    assert "left out: 1 tensors outside the network (n_averaged)" in notes


@pytest.mark.parametrize(
    ("trunk", "head"),
    [("backbone.", "classifier."), ("encoder.", "head."), ("vit.", "fc."),
     ("model.backbone.", "model.head."), ("module.net.encoder.", "module.classifier.")],
)  # fmt: skip
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_linear_head_beside_the_trunk(tmp_path, trunk, head, pooling):
    model = model_of("classifier" if pooling == "mean" else "classifier, cls")
    weights = {
        head + name.removeprefix("head.") if name.startswith("head.") else trunk + name: value
        for name, value in published(model).items()
    }
    torch.save({"state_dict": weights}, tmp_path / "weights.pth")
    artifact = open_artifact(tmp_path / "weights.pth")
    same(artifact, model)
    where = "the mean of the patches" if pooling == "mean" else "the class token"
    assert any(f"beside the trunk reads {where}" in note
               for note in artifact.details.trained["notes"])  # fmt: skip


@pytest.mark.parametrize(
    "beside",
    [
        {"proj.weight": torch.eye(48)},  # between the trunk and the head, or so it may be
        {"bn.running_mean": torch.zeros(48)},
        {"fc2.weight": torch.ones(5, 48)},
        {"logit_scale": torch.tensor(4.6)},
    ],
)
def test_a_head_that_is_not_the_whole_answer_is_left_out(tmp_path, beside):
    weights = {name if name.startswith("head.") else f"backbone.{name}": value
               for name, value in published(model_of("classifier")).items()}  # fmt: skip
    torch.save(weights | {"criterion.weight": torch.ones(3)}, tmp_path / "weights.pth")
    assert open_artifact(tmp_path / "weights.pth").kind == "classifier"
    torch.save(weights | beside, tmp_path / "weights.pth")
    artifact = open_artifact(tmp_path / "weights.pth")
    assert artifact.kind == "backbone"
    assert any(f"which has {next(iter(beside))} too" in note
               for note in artifact.details.trained["notes"])  # fmt: skip


def test_a_head_above_that_of_the_trunk(tmp_path):
    """As over a pre-trained model whose own classes were kept: its answers are not those asked
    for."""
    weights = {f"model.{name}": value for name, value in published(model_of("classifier")).items()}
    for columns in (3, 48):  # over its logits, or over its features
        torch.save(weights | {"fc.weight": torch.ones(2, columns)}, tmp_path / "weights.pth")
        artifact = open_artifact(tmp_path / "weights.pth")
        assert artifact.kind == "backbone"
        assert any("its head 'head' is left out" in note
                   for note in artifact.details.trained["notes"])  # fmt: skip


HEADLESS = {
    "no head": (lambda name: not name.startswith("head."), "fc_norm, was trained on the mean"),
    "no head, no norm": (
        lambda name: not name.startswith(("head.", "fc_norm.")), "no last norm; one with gain 1",
    ),
    "no norm": (lambda name: not name.startswith("fc_norm."), "left out: head.weight, head.bias"),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADLESS)
@pytest.mark.parametrize("prefix", ["", "module.encoder."])
def test_a_backbone_without_head(tmp_path, case, prefix):
    keep, said = HEADLESS[case]
    model = model_of("classifier")
    weights = {prefix + name: value for name, value in published(model).items() if keep(name)}
    torch.save(weights, tmp_path / "weights.pth")
    artifact = open_artifact(tmp_path / "weights.pth")
    assert artifact.kind == "backbone"
    images = torch.randn(2, 3, *FINE.size)
    close(artifact.model.backbone(images).patches, model.backbone(images).patches, 1e-6)
    assert any(said in note for note in artifact.details.trained["notes"])


def test_a_head_of_several_layers_is_left_out(tmp_path):
    weights = {name: value for name, value in published(model_of("classifier")).items()
               if not name.startswith("head.")}  # fmt: skip
    weights |= {"head.0.weight": torch.ones(5, 48), "head.2.weight": torch.ones(3, 5)}
    torch.save(weights, tmp_path / "weights.pth")
    artifact = open_artifact(tmp_path / "weights.pth")
    assert artifact.kind == "backbone"
    assert any("left out: head.0.weight, head.2.weight" in note
               for note in artifact.details.trained["notes"])  # fmt: skip


def test_a_head_with_one_output_is_not_answered(tmp_path):
    """Values, or yes and no: a softmax over one output would always say 100 %."""
    torch.manual_seed(0)
    torch.save(published(Classifier(FINE, 1)), tmp_path / "weights.pth")
    artifact = open_artifact(tmp_path / "weights.pth")
    assert artifact.kind == "backbone"
    assert any("has one output" in note for note in artifact.details.trained["notes"])


def test_ours_without_config_and_with(tmp_path):
    model = model_of("classifier")
    folder = save_artifact(tmp_path / "model", model, Details(classes=("a", "b", "c")))
    same(open_artifact(folder / "model.safetensors"), model)  # its config lies beside it
    for backbone in (FINE, replace(FINE, relative_position="none", absolute_position=True)):
        torch.save(Classifier(backbone, 3).state_dict(), tmp_path / "alone.pth")
        with pytest.raises(CheckpointError, match="weights of ours without their config"):
            open_artifact(tmp_path / "alone.pth")
    for head in (UperNetConfig(head_channels=4), LinearHeadConfig()):
        torch.save(Segmenter(TINY, 3, head).state_dict(), tmp_path / "alone.pth")
        with pytest.raises(CheckpointError, match="weights of ours without their config"):
            open_artifact(tmp_path / "alone.pth")
    torch.save(PretrainedBackbone(TINY).state_dict(), tmp_path / "alone.pth")
    with pytest.raises(CheckpointError, match="weights of ours without their config"):
        open_artifact(tmp_path / "alone.pth")


def test_the_whole_module_of_timm(tmp_path):
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model(
        "beit_base_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4,
        num_classes=3,
    ).eval()  # fmt: skip
    images = torch.randn(2, 3, 32, 32)
    for value in (theirs, {"model": nn.DataParallel(theirs)}):
        torch.save(value, tmp_path / "whole.pth")
        close(open_artifact(tmp_path / "whole.pth").model(images), theirs(images), 1e-5)


def test_the_whole_module_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BeitConfig(
        image_size=32, patch_size=8, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
        use_relative_position_bias=True,
    )  # fmt: skip
    theirs = transformers.BeitForImageClassification(config).eval()
    torch.save(theirs, tmp_path / "whole.pth")
    images = torch.randn(2, 3, 32, 32)
    close(open_artifact(tmp_path / "whole.pth").model(images), theirs(images).logits, 1e-5)


def test_names_with_a_dash(tmp_path):
    model = model_of("classifier")
    weights = {f"the-trunk.{name}": value for name, value in published(model).items()}
    torch.save(weights | {"the-trunk.head-2.weight": torch.ones(2, 48)}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"1 unexpected \(backbone.head-2.weight\)"):
        open_artifact(tmp_path / "weights.pth")
    torch.save(weights | {"left-eye.weight": torch.ones(2, 48)}, tmp_path / "weights.pth")
    same(open_artifact(tmp_path / "weights.pth"), model)


def test_weights_divided_among_processes_are_told_how_to_be_joined(tmp_path):
    """DeepSpeed's third stage leaves names without values, PyTorch a folder of pieces."""
    weights = {name: torch.empty(0) for name in published(model_of("classifier"))}
    torch.save({"module": weights, "ds_version": "0.14"}, tmp_path / "states.pt")
    (tmp_path / "pieces").mkdir()
    for name in (".metadata", "__0_0.distcp"):
        (tmp_path / "pieces" / name).write_bytes(b"PK")
    for place, remedy in (("states.pt", "zero_to_fp32"), ("pieces", "dcp_to_torch"),
                          ("pieces/__0_0.distcp", "dcp_to_torch")):  # fmt: skip
        with pytest.raises(CheckpointError, match="divided") as caught:
            open_artifact(tmp_path / place)
        assert remedy in caught.value.remedy


def test_a_bias_is_zero_where_none_is_and_missing_where_only_some_are(tmp_path):
    model = model_of("classifier")
    weights = published(model)
    del weights["head.bias"]
    torch.save(weights, tmp_path / "weights.pth")
    artifact = open_artifact(tmp_path / "weights.pth")
    assert "there is no head.bias: taken as 0" in artifact.details.trained["notes"]
    assert not artifact.model.head.bias.any()
    del weights["blocks.1.attn.q_bias"]
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"1 missing.*q_bias"):
        open_artifact(tmp_path / "weights.pth")


def test_norms_without_bias_may_be_of_another_kind(tmp_path):
    weights = {name: value for name, value in published(model_of("classifier")).items()
               if not re.search(r"norm\d\.bias$", name)}  # fmt: skip
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"6 missing.*norm1\.bias"):
        open_artifact(tmp_path / "weights.pth")


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.bool])
def test_weights_quantised_to_whole_numbers_are_not_read_as_values(tmp_path, kind):
    weights = published(model_of("classifier"))
    weights["blocks.0.mlp.fc1.weight"] = weights["blocks.0.mlp.fc1.weight"].mul(50).to(kind)
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"1 of whole numbers.*fc1\.weight"):
        open_artifact(tmp_path / "weights.pth")


def test_no_width_of_heads_is_assumed_beyond_those_published(tmp_path):
    """EVA has BEiT's weights without a relative bias, and heads of 88."""
    from beit.weights.build import backbone_config
    from beit.weights.detect import Detected

    weights = {"patch_embed.proj.weight": torch.zeros(1408, 3, 14, 14),
               "blocks.0.mlp.fc1.weight": torch.zeros(6144, 1),
               "pos_embed": torch.zeros(1, 257, 1408)}  # fmt: skip
    with pytest.raises(CheckpointError, match="how many heads share its width of 1408"):
        backbone_config(Detected("backbone", weights, Overrides(), []))
    stated = Detected("backbone", weights, Overrides(heads=16), [])
    assert backbone_config(stated).heads == 16


def test_class_names_of_openmmlab(tmp_path):
    weights = to_openmmlab(published(model_of("classifier")))
    for meta in ({"CLASSES": ["a", "b", "c"]}, {"dataset_meta": {"classes": ("a", "b", "c")}}):
        torch.save({"state_dict": weights, "meta": meta}, tmp_path / "weights.pth")
        assert open_artifact(tmp_path / "weights.pth").details.classes == ("a", "b", "c")


def test_an_adapter_is_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(CheckpointError, match=r"adapter[\s\S]*merge"):
        beit.load(tmp_path)
    weights = {"base_model.model.beit.layers.0.attention.q_proj.lora_A.weight": torch.ones(2, 2)}
    torch.save(weights, tmp_path / "adapter.bin")
    with pytest.raises(CheckpointError, match=r"adapter[\s\S]*merge"):
        beit.load(tmp_path / "adapter.bin")
    weights = {name.replace(".qkv.", ".qkv.base_layer."): value
               for name, value in published(model_of("classifier")).items()}  # fmt: skip
    torch.save(weights, tmp_path / "unmerged.bin")
    with pytest.raises(CheckpointError, match=r"adapter[\s\S]*merge"):
        beit.load(tmp_path / "unmerged.bin")


@pytest.mark.parametrize(
    "computed", ["weight_orig", "parametrizations.weight.original0", "weight_scale", "qweight"]
)
def test_weights_to_be_computed_are_named(tmp_path, computed):
    weights = published(model_of("classifier"))
    weights[f"blocks.0.mlp.fc1.{computed}"] = weights.pop("blocks.0.mlp.fc1.weight")
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"computed from other tensors[\s\S]*plain first"):
        beit.load(tmp_path / "weights.pth")
