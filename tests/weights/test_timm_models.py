"""Folders that timm saves, of any setting: the same logits, or a word of what BEiT lacks."""

from __future__ import annotations

import json
import re

import pytest
import torch

from beit.errors import CheckpointError
from beit.weights.load import open_artifact
from reference import close, disturb

timm = pytest.importorskip("timm")

IMAGES = torch.linspace(-2, 2, 2 * 3 * 32 * 32).sin().reshape(2, 3, 32, 32)


def saved(folder, said=None, **settings):
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
    options = {"num_classes": 3} | small | settings
    model = timm.create_model("beit_base_patch16_224", **options).eval()
    disturb(model)
    timm.models.save_for_hf(model, folder, model_config=said)
    return model


@pytest.mark.parametrize("settings", [
    {},
    {"global_pool": "token"},
    {"global_pool": "token", "use_fc_norm": True},
    {"qkv_bias": False},
    {"num_heads": 6, "use_abs_pos_emb": True, "use_rel_pos_bias": False},
])  # fmt: skip
def test_the_same_logits(tmp_path, settings):
    model = saved(tmp_path / "hub", **settings)
    artifact = open_artifact(tmp_path / "hub")
    close(artifact.model(IMAGES), model(IMAGES), 1e-5)
    notes = " ".join(artifact.details.trained["notes"])
    assert ("backbone.attn.q_bias, backbone.attn.v_bias: taken as 0" in notes) == (
        "qkv_bias" in settings
    )


@pytest.mark.parametrize(("settings", "problem"), [
    ({"use_fc_norm": False}, "mean of the patches after their norm"),
    ({"global_pool": ""}, "a head for each patch"),
    ({"scale_mlp": True}, "4 unexpected"),
])  # fmt: skip
def test_what_beit_has_no_place_for(tmp_path, settings, problem):
    saved(tmp_path / "hub", **settings)
    with pytest.raises(CheckpointError, match=problem) as caught:
        open_artifact(tmp_path / "hub")
    assert re.search("head out|num_classes=0|merged", caught.value.remedy)


@pytest.mark.parametrize("names", [["cat", "dog", "emu"], {0: "cat", 1: "dog", 2: "emu"}])
def test_class_names_stand_where_timm_puts_them(tmp_path, names):
    saved(tmp_path / "hub", {"label_names": names})
    assert open_artifact(tmp_path / "hub").details.classes == ("cat", "dog", "emu")


def test_a_size_that_an_older_timm_left_as_it_was_published(tmp_path):
    model = saved(tmp_path / "hub")
    said = json.loads((tmp_path / "hub" / "config.json").read_text())
    del said["model_args"]
    said["pretrained_cfg"]["input_size"] = [3, 224, 224]
    (tmp_path / "hub" / "config.json").write_text(json.dumps(said))
    artifact = open_artifact(tmp_path / "hub")
    assert artifact.backbone.size == (32, 32)
    close(artifact.model(IMAGES), model(IMAGES), 1e-5)


def test_a_file_without_all_of_its_blocks(tmp_path):
    saved(tmp_path / "hub")
    said = json.loads((tmp_path / "hub" / "config.json").read_text())
    said["model_args"]["depth"] = 3
    (tmp_path / "hub" / "config.json").write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match="3 blocks are stated, and the file has 2"):
        open_artifact(tmp_path / "hub")


@pytest.mark.parametrize("problem", [None, "multi_label_classification"])
def test_a_model_of_timm_that_transformers_saved(tmp_path, problem):
    transformers = pytest.importorskip("transformers")
    saved(tmp_path / "hub")
    said = json.loads((tmp_path / "hub" / "config.json").read_text())
    del said["model_args"]["num_classes"]
    (tmp_path / "hub" / "config.json").write_text(json.dumps(said))
    kind = transformers.TimmWrapperForImageClassification
    model = kind.from_pretrained(tmp_path / "hub", problem_type=problem).eval()
    model.save_pretrained(tmp_path / "again")
    artifact = open_artifact(tmp_path / "again")
    close(artifact.model(IMAGES), model(IMAGES).logits, 1e-5)
    assert artifact.details.multi_label == (problem is not None)
    assert artifact.details.classes == ("class 0", "class 1", "class 2")
