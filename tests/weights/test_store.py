"""Artifacts: a model comes back as it was, or not at all."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from beit.config import DalleConfig, HeadConfig
from beit.errors import BeitError, CheckpointError
from beit.models.heads import Classifier, MaskedImageModel, PretrainedBackbone
from beit.tokenizers import build_tokenizer
from beit.tokenizers.dvae import DiscreteVAE
from beit.weights.load import open_tokenizer
from beit.weights.store import (
    CONFIG,
    WEIGHTS,
    Details,
    find_artifact,
    load_artifact,
    read_described,
    save_artifact,
)
from miniature import BACKBONE, VAE, draw_images
from states import cut_after_reading

DETAILS = Details(
    classes=("cat", "Übergröße"), crop=0.875, tokenizer="ab12", trained={"recipe": "tiny"}
)
FINE = replace(BACKBONE, mask_token=False, relative_position="per-block", mean=(0.1, 0.2, 0.3))
KINDS = {
    "tokenizer": lambda: build_tokenizer(VAE),
    "masked": lambda: MaskedImageModel(BACKBONE, 12),
    "backbone": lambda: PretrainedBackbone(FINE),
    "classifier": lambda: Classifier(FINE, 2, HeadConfig(pooling="cls")),
}


def config_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / CONFIG).read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(tmp_path, kind):
    model = KINDS[kind]().eval()
    artifact = load_artifact(save_artifact(tmp_path / "model", model, DETAILS))
    assert (artifact.kind, artifact.details) == (kind, DETAILS)
    assert not artifact.model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(artifact.model.state_dict()[name], tensor), name
    images = draw_images(size=8 if kind == "tokenizer" else 16)
    if isinstance(model, DiscreteVAE):
        assert artifact.backbone is None
        assert artifact.model.config == model.config
        assert torch.equal(artifact.model.encode(images), model.encode(images))
        assert open_tokenizer(tmp_path / "model").frozen
    else:
        assert artifact.backbone == model.backbone.config
        assert torch.equal(artifact.model(images), model(images))


def test_other_tokenizers_are_artifacts_too(tmp_path):
    config = DalleConfig(size=(16, 16), codes=8, hidden=8, decoder_input=4, blocks_per_group=1)
    tokenizer = build_tokenizer(config)
    save_artifact(tmp_path / "dalle", tokenizer, Details())
    assert open_tokenizer(tmp_path / "dalle").digest() == tokenizer.digest()


def test_a_new_artifact_replaces_the_old_one(tmp_path):
    for classes in (2, 3):
        save_artifact(tmp_path / "model", Classifier(FINE, classes), Details())
    assert load_artifact(tmp_path / "model").model.head.out_features == 3
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_version_tells_artifacts_apart(tmp_path):
    model = Classifier(FINE, 2)
    first = load_artifact(save_artifact(tmp_path / "first", model, DETAILS))
    later = replace(DETAILS, trained={"recipe": "tiny", "steps": 9})
    assert (
        load_artifact(save_artifact(tmp_path / "same", model, later)).version() == first.version()
    )
    changed = [replace(first, details=replace(DETAILS, classes=("dog", "Übergröße"))),
               replace(first, details=replace(DETAILS, crop=1.0)),
               replace(first, model=Classifier(replace(FINE, mean=(0.2, 0.2, 0.3)), 2)),
               replace(first, model=Classifier(FINE, 2))]  # fmt: skip
    changed[2].model.load_state_dict(model.state_dict())
    versions = [first.version(), *(other.version() for other in changed)]
    assert len(set(versions)) == 5


def test_a_run_stands_for_its_model(trained, tmp_path):
    assert find_artifact(trained.classifier) == trained.classifier / "model"
    assert find_artifact(trained.classifier / "model") == trained.classifier / "model"
    assert read_described(trained.classifier).details.classes == ("disc", "stripes", "tiles")
    assert (
        read_described(trained.pretrained).details.tokenizer
        == open_tokenizer(trained.tokenizer).digest()
    )
    assert read_described(trained.pretrained).details.trained["recipe"] == "tiny"


def test_nothing_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"is not an artifact[\s\S]*folder of a finished run"):
        find_artifact(tmp_path)
    (tmp_path / "checkpoint-500").mkdir()
    for name in ("checkpoint-500/config.json", "best.pth", "log.txt"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=r"weights in it: best\.pth, checkpoint-500$"):
        find_artifact(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="not finished: continue with --resume"):
        find_artifact(tmp_path)
    (tmp_path / "folds.json").touch()
    with pytest.raises(CheckpointError, match="train once more without --folds"):
        find_artifact(tmp_path)


@pytest.fixture
def folder(tmp_path):
    return save_artifact(tmp_path / "model", KINDS["classifier"](), DETAILS)


@pytest.mark.parametrize("place", [0, 9, 500, -1])
def test_damaged_weights(folder, place):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[place] ^= 4
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} is damaged"):
        load_artifact(folder)


def test_truncated_weights(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_artifact(folder)


def test_weights_are_never_narrowed(tmp_path):
    """Neither in silence nor at all; widening them changes no value."""
    for dtype in (torch.float16, torch.bfloat16):
        narrow = KINDS["classifier"]().to(dtype)
        loaded = load_artifact(save_artifact(tmp_path / str(dtype), narrow, DETAILS)).model
        for name, tensor in narrow.state_dict().items():
            assert loaded.state_dict()[name].dtype == torch.float32
            assert torch.equal(loaded.state_dict()[name], tensor.float()), name
    save_artifact(tmp_path / "wide", KINDS["classifier"]().double(), DETAILS)
    with pytest.raises(
        CheckpointError, match=r"in torch\.float64, not torch\.float32, \.\.\.: load"
    ):
        load_artifact(tmp_path / "wide")


def test_files_that_are_cut_once_they_were_read(folder, monkeypatch):
    """They are read once: what is used is what was hashed."""
    expected = load_artifact(folder).model.state_dict()
    cut_after_reading(monkeypatch)
    for name, tensor in load_artifact(folder).model.state_dict().items():
        assert torch.equal(tensor, expected[name])
    assert (folder / WEIGHTS).stat().st_size == 0


def test_an_artifact_that_is_replaced_while_it_is_read(folder, monkeypatch):
    """Both files are of the same one, as when a run publishes meanwhile."""
    before = Path.read_bytes

    def read(path):
        content = before(path)
        monkeypatch.undo()
        save_artifact(folder, Classifier(FINE, 3), Details())
        return content

    monkeypatch.setattr(Path, "read_bytes", read)
    assert load_artifact(folder).model.head.out_features == 3


def test_weights_of_another_model(folder, tmp_path):
    other = save_artifact(tmp_path / "other", KINDS["masked"](), DETAILS)
    config = config_of(folder) | {"sha256": config_of(other)["sha256"]}
    shutil.copy(other / WEIGHTS, folder)
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"those that config.json describes: \d+ missing"):
        load_artifact(folder)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": 2}, "format 2, this version reads 1"),
        ({"format": 2, "versions": {"beit": "9.1"}}, "made by beit 9.1 in format 2"),
        ({"architecture": {"kind": "poem"}}, "'poem'"),
        ({"architecture": {}}, "kind None"),
        ({"architecture": {"kind": "classifier", "backbone": {"type": "Novel"}}}, "'Novel'"),
    ],
)
def test_configs_that_do_not_fit(folder, change, problem):
    (folder / CONFIG).write_text(json.dumps(config_of(folder) | change))
    with pytest.raises(BeitError, match=problem) as caught:
        load_artifact(folder)
    assert caught.value.remedy


def test_old_names_are_read(folder):
    config = config_of(folder)
    config["trained"] = {"pictures": 36}
    (folder / CONFIG).write_text(json.dumps(config))
    assert load_artifact(folder).details.trained == {"images": 36}


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_config_that_is_none(folder, content):
    (folder / CONFIG).write_text(content)
    with pytest.raises(CheckpointError, match=CONFIG):
        load_artifact(folder)


def test_a_classifier_is_no_tokenizer(folder):
    with pytest.raises(CheckpointError, match="holds a classifier model, not a tokenizer"):
        open_tokenizer(folder)
