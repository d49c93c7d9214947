"""Released files of every layout open, compute what they should, and say what was assumed."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

import beit
from beit.config import InferenceConfig, UperNetConfig, VisionTransformerConfig
from beit.config.model import HALF, IMAGENET_MEAN
from beit.errors import CheckpointError, ConfigError
from beit.models.heads import Classifier, MaskedImageModel
from beit.models.segmenter import Segmenter
from beit.weights.convert import published
from beit.weights.fetch import file_hash
from beit.weights.foreign import read_foreign
from beit.weights.load import open_artifact, open_tokenizer
from beit.weights.overrides import Overrides
from reference import FINE, TINY, close, disturb

GOLDEN = Path(__file__).parents[1] / "golden"


def file_of(weights, folder, name="weights.pth", wrapper="model", **beside) -> Path:
    path = folder / name
    torch.save({wrapper: weights, **beside} if wrapper else weights, path)
    return path


# -- the golden files ----------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict", "model_ema", ""])
def test_pre_trained_in_every_wrapper(golden, tmp_path, wrapper):
    facts = golden("mim_shared_rel")
    artifact = open_artifact(file_of(facts["model"], tmp_path, wrapper=wrapper))
    assert artifact.kind == "masked"
    close(artifact.model(facts["image"], facts["mask"]), facts["logits"], 1e-5)
    assert artifact.backbone.mean == HALF
    assert artifact.details.crop == 0.875


def test_fine_tuned(golden, tmp_path):
    facts = golden("cls_rel_mean")
    artifact = open_artifact(file_of(facts["model"], tmp_path))
    assert artifact.kind == "classifier"
    close(artifact.model(facts["image"]), facts["logits"], 1e-5)
    assert artifact.details.classes == tuple(f"class {index}" for index in range(7))


def test_patch_aggregation(golden, tmp_path):
    """The golden file taps block 2 of 4, which no file can say; a published one taps 3 before."""
    facts = golden("v2_mim_cls_shared")
    path = file_of(facts["model"], tmp_path)
    model = open_artifact(path, overrides=Overrides(early_layer=2)).model
    main, aggregated = model.predictions(facts["image"], facts["mask"])
    close(main, facts["logits"], 1e-5)
    close(aggregated, facts["logits_cls"], 1e-5)
    artifact = open_artifact(path)
    assert artifact.model.aggregation.config.early_layer == 1
    assert "patch aggregation reads block 1, as published" in artifact.details.trained["notes"]
    assert artifact.backbone.mean == IMAGENET_MEAN


def test_vqkd_tokenizer(golden, tmp_path):
    facts = golden("v2_vqkd")
    weights = facts["model"] | {"teacher_model.x": torch.zeros(1)}
    # The facts were measured before the last move of the codes, which `embed_avg` remembers.
    weights["quantize.embedding.weight"] = weights["quantize.embedding.embed_avg"]
    artifact = open_artifact(file_of(weights, tmp_path), overrides=Overrides(heads=3))
    assert artifact.kind == "tokenizer"
    assert torch.equal(artifact.model.encode(facts["image"]), facts["ids"].flatten(1))
    close(artifact.model.features(facts["image"]), facts["rec"], 1e-5)
    assert any("1 tensors that only its training" in note
               for note in artifact.details.trained["notes"])  # fmt: skip
    with pytest.raises(CheckpointError, match="heads share its width of 48"):
        open_artifact(tmp_path / "weights.pth")


def dalle_files(folder: Path) -> Path:
    for part in ("encoder", "decoder"):
        (folder / f"{part}.pkl").write_bytes((GOLDEN / f"dalle_{part}.pkl").read_bytes())
    return folder / "encoder.pkl"


def test_dalle_pickles_with_their_decoder(golden, tmp_path):
    facts, path = golden("dalle_expected"), dalle_files(tmp_path)
    tokenizer = open_tokenizer(path)
    assert tokenizer.frozen
    assert tokenizer.can_decode
    tokens = tokenizer.encode(facts["image"])
    assert torch.equal(tokens, facts["ids"].flatten(1))
    close(tokenizer.decode(tokens), facts["recon"], 1e-5)


def test_dalle_encoder_alone_gives_tokens_but_no_images(golden, tmp_path):
    facts, path = golden("dalle_expected"), dalle_files(tmp_path)
    path.with_name("decoder.pkl").unlink()
    tokenizer = open_tokenizer(path)
    tokens = tokenizer.encode(facts["image"])
    assert torch.equal(tokens, facts["ids"].flatten(1))
    assert not tokenizer.can_decode
    with pytest.raises(ConfigError, match="without its decoder"):
        tokenizer.decode(tokens)


def test_dalle_decoder_alone_is_refused(tmp_path):
    dalle_files(tmp_path)
    with pytest.raises(CheckpointError, match="gives no tokens"):
        open_artifact(tmp_path / "decoder.pkl")


# -- what a file does not say --------------------------------------------------------------------


def test_a_file_that_is_replaced_once_its_hash_was_taken(golden, tmp_path, monkeypatch):
    """What was checked against a hash is what is used."""
    path = file_of(golden("mim_shared_rel")["model"], tmp_path)
    sha256 = file_hash(path)

    def read(place, name):
        place.write_bytes((GOLDEN / "dalle_encoder.pkl").read_bytes())
        return read_foreign(place, name)

    monkeypatch.setattr("beit.weights.load.read_foreign", read)
    with pytest.raises(CheckpointError, match="was replaced while it was opened"):
        open_artifact(path, sha256=sha256)


def test_what_is_stated_stands_over_what_is_assumed(golden, tmp_path):
    path = file_of(golden("cls_rel_mean")["model"], tmp_path)
    names = tuple("abcdefg")
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    predictor = beit.load(path, mean=mean, std=std, crop=1.0, classes=names)
    assert predictor.classes == names
    assert predictor.artifact.details.crop == 1.0
    assert (predictor.artifact.backbone.mean, predictor.artifact.backbone.std) == (mean, std)
    with pytest.raises(CheckpointError, match="2 class names are given for the 7 outputs"):
        beit.load(path, classes=("a", "b"))


@pytest.mark.parametrize(("stated", "problem"), [
    ({"mean": (0.1, 0.2, 0.3)}, "only one is given"),
    ({"heads": 5}, "5 heads are stated for a relative bias of 3"),
    ({"mean": (0.1,) * 3, "std": (0.2, 0.0, 0.2)}, "std"),
    ({"mean": (0.1,) * 3, "std": (0.2, 1e-300, 0.2)}, "std"),
    ({"crop": float("nan")}, "crop"),
    ({"size": (64,)}, "size"),
    ({"size": (35, 35)}, "do not divide images of 35 x 35"),
])  # fmt: skip
def test_what_is_stated_is_never_passed_over(golden, tmp_path, stated, problem):
    path = file_of(golden("cls_rel_mean")["model"], tmp_path)
    with pytest.raises((CheckpointError, ConfigError), match=problem):
        beit.load(path, **stated)


def test_a_published_name_settles_the_statistics(golden, tmp_path):
    """Fine-tuned files of v1 and v2 look the same; their names differ."""
    weights = golden("cls_rel_mean")["model"]
    v1 = open_artifact(file_of(weights, tmp_path, "beit_base_patch16_224_pt22k_ft22kto1k.pth"))
    v2 = open_artifact(file_of(weights, tmp_path, "beitv2_base_patch16_224_pt1k_ft1k.pth"))
    assert v1.backbone.mean == HALF
    assert v2.backbone.mean == IMAGENET_MEAN


def test_imagenet_names(tmp_path):
    model = Classifier(FINE, 1000)
    details = open_artifact(file_of(published(model), tmp_path)).details
    assert details.classes[281].startswith("tabby")
    assert any("imagenet-1k" in note for note in details.trained["notes"])


@pytest.mark.parametrize("size", [(32, 96), (96, 32), (64, 64), (16, 16)])
@pytest.mark.parametrize("bias", ["shared", "per-block"])
def test_the_persisted_index_tells_the_sides_of_the_grid(tmp_path, size, bias):
    model = MaskedImageModel(replace(TINY, size=size, relative_position=bias), 5)
    found = open_artifact(file_of(published(model), tmp_path)).backbone
    assert (found.size, found.relative_position) == (size, bias)


def test_without_index_a_grid_is_square_unless_its_size_is_stated(tmp_path):
    model = MaskedImageModel(replace(TINY, size=(32, 96), absolute_position=True), 5)
    weights = {name: value for name, value in published(model).items() if "_index" not in name}
    path = file_of(weights, tmp_path)
    with pytest.raises(CheckpointError, match="do not fit the file"):
        open_artifact(path)
    assert open_artifact(path, overrides=Overrides(size=(32, 96))).backbone.grid == (2, 6)


def test_a_wrong_index_is_refused(golden, tmp_path):
    weights = dict(golden("mim_shared_rel")["model"])
    name = "rel_pos_bias.relative_position_index"
    weights[name] = weights[name].flip(0)
    with pytest.raises(CheckpointError, match="is not the published index"):
        open_artifact(file_of(weights, tmp_path))


def test_plain_variant_without_bias_and_layer_scale(tmp_path):
    """The 800-epoch file: absolute positions, heads of width 64, statistics of ImageNet."""
    backbone = VisionTransformerConfig(
        size=(64, 64), width=128, depth=2, heads=2, hidden=256, absolute_position=True,
        relative_position="none", layer_scale=None,
    )  # fmt: skip
    model = MaskedImageModel(backbone, 7)
    disturb(model)
    artifact = open_artifact(file_of(published(model), tmp_path))
    images, mask = torch.randn(2, 3, 64, 64), torch.rand(2, 16) < 0.4
    close(artifact.model(images, mask), model.eval()(images, mask), 1e-6)
    assert artifact.backbone.heads == 2
    assert artifact.backbone.mean == IMAGENET_MEAN


def test_half_precision_is_widened(tmp_path, caplog):
    model = Classifier(FINE, 7)
    weights = {name: value.half() if value.is_floating_point() else value
               for name, value in published(model).items()}  # fmt: skip
    artifact = open_artifact(file_of(weights, tmp_path))
    assert next(artifact.model.parameters()).dtype == torch.float32
    assert "weights of float16 are widened to float32" in artifact.details.trained["notes"]


def test_training_checkpoint_with_all_it_holds(golden, tmp_path, caplog):
    """What a training writes beside the weights is left out, and named."""
    from argparse import Namespace

    caplog.set_level(logging.INFO, logger="beit")
    facts = golden("mim_shared_rel")
    path = file_of(
        facts["model"], tmp_path, epoch=3, args=Namespace(lr=1.0), scaler={"scale": 2.0},
        optimizer={"state": {0: {"mean": torch.zeros(2)}}, "param_groups": []},
    )  # fmt: skip
    artifact = open_artifact(path)
    close(artifact.model(facts["image"], facts["mask"]), facts["logits"], 1e-5)
    assert "optimizer" in caplog.text


# -- segmentation --------------------------------------------------------------------------------


def test_segmentation_file_with_its_classes(tmp_path):
    backbone = replace(FINE, size=(64, 64), depth=4)
    model = Segmenter(backbone, 4, UperNetConfig(auxiliary_channels=16)).eval()
    disturb(model)
    names = ["wall", "tree", "road", "water"]
    path = file_of(published(model), tmp_path, wrapper="state_dict", meta={"CLASSES": names})
    artifact = open_artifact(path)
    assert artifact.kind == "segmenter"
    assert artifact.details.classes == tuple(names)
    assert artifact.backbone.mean == IMAGENET_MEAN
    images = torch.randn(2, 3, 64, 64)
    close(artifact.model(images), model(images), 1e-6)
    assert any(name.startswith("backbone.fpn1.0") for name in published(model))
    assert artifact.details.inference == InferenceConfig(short_side=64)  # the published test


@pytest.mark.parametrize(("outputs", "first"), [(150, "wall"), (149, "class 0")])
def test_150_outputs_are_those_of_ade20k(tmp_path, outputs, first):
    backbone = replace(FINE, size=(64, 64), depth=4)
    model = Segmenter(backbone, outputs, UperNetConfig(head_channels=8, auxiliary=False)).eval()
    artifact = open_artifact(file_of(published(model), tmp_path, wrapper="state_dict"))
    names = artifact.details.classes
    assert (len(set(names)), names[0]) == (outputs, first)
    if outputs == 150:
        # labels of the benchmark's table, counted from 1
        labels = {13: "person", 21: "car", 45: "chest of drawers", 90: "television receiver",
                  137: "traffic light", 150: "flag"}  # fmt: skip
        assert {label: names[label - 1] for label in labels} == labels


# -- strict --------------------------------------------------------------------------------------


def test_missing_unexpected_and_reshaped_are_listed_together(golden, tmp_path):
    weights = dict(golden("cls_rel_mean")["model"])
    del weights["blocks.1.norm1.weight"]
    weights["blocks.0.extra"] = torch.zeros(1)
    weights["fc_norm.bias"] = torch.zeros(5)
    with pytest.raises(CheckpointError) as caught:
        open_artifact(file_of(weights, tmp_path))
    for part in ("(classifier)", "1 missing", "blocks.1.norm1.weight", "1 unexpected",
                 "blocks.0.extra", "1 of another shape",
                 "norm.bias (5,) instead of (48,)"):  # fmt: skip
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["decoder_embed.weight", "blocks.0.attn.qkv.weight"], "masked autoencoder"),
        (["visual.conv1.weight"], "CLIP"),
        (["student.backbone.cls_token"], "DINO"),
        (["head.weight", "norm.weight", "blocks.0.attn.qkv.bias"], "keys have a bias"),
        (["reg_token", "blocks.0.attn.qkv.weight", "patch_embed.proj.weight"], "register"),
        (["layer1.0.bn1.running_mean", "fc.weight"], "convolutional"),
        (["blocks.0.norm1.weight", "patch_embed.proj.weight"], r"\(backbone\), but"),
        (["something"], "no model that is known"),
        (["patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight"], "without the blocks"),
        (
            [
                "vit.embeddings.patch_embeddings.projection.weight",
                "vit.encoder.layer.0.attention.attention.key.bias",
            ],
            "keys have a bias",
        ),
        (
            ["embeddings.patch_embeddings.projection.weight", "layers.0.attention.k_proj.bias"],
            "keys have a bias",
        ),
    ],
)
def test_strangers_are_called_by_their_name(tmp_path, names, what):
    weights = {name: torch.zeros(2) for name in names}
    with pytest.raises(CheckpointError, match=what):
        open_artifact(file_of(weights, tmp_path, wrapper=""))


def test_the_folder_that_one_stands_in(tmp_path, monkeypatch):
    from beit.weights.store import Details, save_artifact

    monkeypatch.chdir(save_artifact(tmp_path / "model", Classifier(FINE, 2), Details()))
    assert beit.load(".").artifact.kind == "classifier"


def test_options_about_foreign_files_do_not_bend_our_artifacts(tmp_path):
    from beit.weights.store import Details, save_artifact

    folder = save_artifact(tmp_path / "model", Classifier(FINE, 2), Details(classes=("a", "b")))
    with pytest.raises(ConfigError, match="says all about itself"):
        beit.load(folder, heads=3)


ABSURD = {
    "blocks.0.norm1.weight": "blocks.99999999.norm1.weight",
    "blocks.1.norm1.weight": "blocks.one.norm1.weight",
    "patch_embed.proj.weight": torch.zeros(()),
    "head.weight": torch.zeros(()),
    "blocks.0.mlp.fc1.weight": torch.zeros(0, 48),
    "blocks.0.attn.relative_position_bias_table": torch.zeros(261_124, 3),
    "blocks.0.attn.relative_position_index": torch.zeros((), dtype=torch.int64),
    "fc_norm.weight": torch.full((48,), float("nan")),
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_names_and_shapes_are_refused_before_anything_is_built(golden, tmp_path, name):
    weights = dict(golden("cls_rel_mean")["model"])
    if isinstance(ABSURD[name], str):
        weights[ABSURD[name]] = weights.pop(name)
    else:
        weights[name] = ABSURD[name]
    with pytest.raises(CheckpointError, match=r"weights\.pth"):
        open_artifact(file_of(weights, tmp_path))


# -- folders -------------------------------------------------------------------------------------


def test_folders_of_others_are_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="model of type 'vit'"):
        open_artifact(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet50"}))
    with pytest.raises(CheckpointError, match="timm's 'resnet50'"):
        open_artifact(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"but no model.safetensors or pytorch_model.bin"):
        open_artifact(tmp_path)
