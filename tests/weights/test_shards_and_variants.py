"""Weights of transformers in several files, or in one of several types."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from beit.errors import CheckpointError
from beit.models.heads import Classifier
from beit.weights.convert import convert
from beit.weights.load import open_artifact
from beit.weights.store import Details, save_artifact
from reference import FINE, disturb


def same(artifact, model):
    expected, found = model.state_dict(), artifact.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def transformers_folder(folder: Path) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = Classifier(FINE, 3)
    disturb(model)
    ours = save_artifact(folder / "ours", model, Details(classes=("a", "b", "c")))
    convert(ours, folder / "hf", to="hf")
    return model.eval(), safetensors.torch.load_file(folder / "hf" / "model.safetensors")


def write(file: Path, tensors):
    if file.suffix == ".safetensors":
        safetensors.torch.save_file(tensors, file)
    else:
        torch.save(tensors, file)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("variant", ["", "fp16"])
@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("given", ["folder", "shard"])
def test_shards_of_any_variant(tmp_path, kind, variant, index, given):
    model, weights = transformers_folder(tmp_path)
    folder, stem = tmp_path / "hf", "model" if kind == "safetensors" else "pytorch_model"
    (folder / "model.safetensors").unlink()
    front = f"{stem}.{variant}" if variant else stem
    names = [f"{front}-{number:05d}-of-00003.{kind}" for number in (1, 2, 3)]
    parts = [dict(list(weights.items())[number::3]) for number in range(3)]
    for name, part in zip(names, parts, strict=True):
        write(folder / name, part)
    placed = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    if index:
        file = f"{stem}.{kind}.index{f'.{variant}' if variant else ''}.json"
        (folder / file).write_text(json.dumps({"weight_map": placed}))
    place = folder if given == "folder" else folder / names[1]
    artifact = open_artifact(place)
    same(artifact, model)
    assert artifact.details.classes == ("a", "b", "c")
    if index:  # which counts one file too few
        fewer = {key: name for key, name in placed.items() if name != names[2]}
        (folder / file).write_text(json.dumps({"weight_map": fewer}))
        same(open_artifact(place), model)
    write(folder / names[2], parts[2] | dict(list(parts[1].items())[:1]))
    with pytest.raises(CheckpointError, match="1 tensor in more than one of its files"):
        open_artifact(place)
    (folder / names[2]).unlink()
    with pytest.raises(CheckpointError, match=f"1 are missing.*{re.escape(names[2])}"):
        open_artifact(place)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/b", "x" * 10**5, "a\0", 10**400, [], None]
)
def test_an_index_of_names_that_are_none(tmp_path, name):
    _, weights = transformers_folder(tmp_path)
    folder = tmp_path / "hf"
    (folder / "model.safetensors").unlink()
    placed = dict.fromkeys(weights, "a.safetensors") | {"head": name}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    with pytest.raises(CheckpointError, match=r"names no files beside it|are missing") as caught:
        open_artifact(folder)
    assert caught.value.remedy


def test_one_file_of_a_variant(tmp_path):
    model, weights = transformers_folder(tmp_path)
    folder = tmp_path / "hf"
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    same(open_artifact(folder), model)
    write(folder / "model.bf16.safetensors", weights)
    with pytest.raises(CheckpointError, match=r"variants: bf16, fp16[\s\S]*model\.fp16\."):
        open_artifact(folder)
    artifact = open_artifact(folder / "model.fp16.safetensors")
    assert artifact.details.classes == ("a", "b", "c")
