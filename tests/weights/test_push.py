"""Models go to the hub as they are, with a card that is true; what the hub refuses is told."""

from __future__ import annotations

import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import beit
from beit.cli import main
from beit.config import DiscreteVAEConfig, UperNetConfig
from beit.errors import BeitError, CheckpointError, ConfigError, ResourceError, RunFolderError
from beit.models.heads import Classifier, MaskedImageModel
from beit.models.segmenter import Segmenter
from beit.tokenizers import build_tokenizer
from beit.weights.fetch import file_hash
from beit.weights.push import Pushed, model_card, push_to_hub
from beit.weights.store import Details, load_artifact, read_artifact, save_artifact
from reference import FINE, TINY, disturb
from servers import COMMIT, OWNER

# huggingface_hub sends a file to git LFS in a way that httpx2 finds old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
NAME = f"{OWNER}/shapes"
CLASSES = ("a | b", "*dog*", "<emu>")
FILES = ["README.md", "config.json", "model.safetensors"]
MODELS: dict[str, Any] = {
    "classifier": lambda: Classifier(FINE, 3),
    "masked": lambda: MaskedImageModel(TINY, 11),
    "segmenter": lambda: Segmenter(
        replace(FINE, depth=4), 3, UperNetConfig(out_indices=(0, 1, 2, 3), auxiliary_channels=8)
    ),
    "tokenizer": lambda: build_tokenizer(
        DiscreteVAEConfig(size=(8, 8), stride=2, codes=12, width=12, narrowest=8, codebook_width=6)
    ),
}
TRAINED = {
    "recipe": "small", "steps": 300, "images": 890, "data": "f00d", "metrics": {"top1": 0.73812},
    "notes": ["class names are\nnumbers"],
}  # fmt: skip


def artifact_of(kind: str, folder: Path) -> Path:
    """An artifact of a small model, in a folder with something else beside it."""
    model = MODELS[kind]()
    disturb(model)
    classes = CLASSES if kind in ("classifier", "segmenter") else ()
    place = save_artifact(folder / "model", model.eval(), Details(classes=classes, trained=TRAINED))
    (place / "private.txt").write_text("nobody else's business")
    return place


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return artifact_of("classifier", tmp_path)


@pytest.fixture
def hub(writable: Any) -> Any:
    return writable


def sections(card: str) -> tuple[dict[str, Any], str]:
    _, head, body = card.split("---\n", 2)
    return yaml.safe_load(head), body


def test_a_model_goes_there_and_comes_back(hub, artifact, caplog):
    with caplog.at_level(logging.INFO, "beit"):
        pushed = push_to_hub(artifact, NAME, license="mit", message="First")
    assert pushed.reference == f"hf:{NAME}@{COMMIT}"
    there = hub.repositories[NAME]
    assert sorted(there) == sorted(pushed.files) == FILES  # and not what lies beside them
    assert {name: len(content) for name, content in there.items()} == pushed.files
    for name in FILES[1:]:
        assert there[name] == (artifact / name).read_bytes()
    assert hub.visible == {NAME: "private"}
    assert hub.messages == ["First"]  # one commit, so that no state in between can be loaded
    said = caplog.messages[0]
    assert said.startswith(f"to hf:{NAME}, private: ")
    assert all(f"{name} ({size:,} bytes)" in said for name, size in pushed.files.items())
    ours, theirs = load_artifact(artifact), beit.load(pushed.reference)
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(theirs.model(images), ours.model(images))
    assert theirs.classes == CLASSES


def test_it_is_said_before_anything_is_sent(hub, artifact, monkeypatch):
    sent: list[int] = []
    say = logging.getLogger("beit.weights.push").info
    monkeypatch.setattr(
        "beit.weights.push.logger.info", lambda *args: (sent.append(len(hub.requests)), say(*args))
    )
    push_to_hub(artifact, NAME)
    assert sent == [0]
    assert hub.requests


@pytest.mark.parametrize("kind", MODELS)
def test_the_card_of_every_kind(hub, tmp_path, monkeypatch, kind):
    artifact = artifact_of(kind, tmp_path)
    push_to_hub(artifact, NAME, license="cc-by-4.0", public=True)
    assert hub.visible == {NAME: "public"}
    head, body = sections(hub.repositories[NAME]["README.md"].decode())
    assert (head["library_name"], head["license"]) == ("beit", "cc-by-4.0")
    assert head["tags"] == ["beit", kind]
    assert head["pipeline_tag"].startswith("image-")
    rows = dict(re.findall(r"^\| ([^|]+) \| (.+) \|$", body, re.MULTILINE))
    assert (rows["recipe"], rows["steps"], rows["top1"]) == ("small", "300", "0.7381")
    assert rows["fingerprint of the images"] == "f00d"
    assert rows["note"] == "class names are numbers"
    weights = load_artifact(artifact).model.state_dict().values()
    assert rows["weights"] == f"{sum(weight.numel() for weight in weights):,}"
    for name in FILES[1:]:
        assert f"| {name} | {(artifact / name).stat().st_size:,} | {file_hash(artifact / name)} |" \
            in body  # fmt: skip
    if kind in ("classifier", "segmenter"):
        assert r"a \| b, \*dog\*, \<emu\>." in body
    (snippet,) = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (70, 66), (9, 99, 199)).save("image.jpg")
    exec(snippet, {})  # noqa: S102


def test_a_card_without_licence_metrics_or_so_few_classes(tmp_path):
    classes = tuple(f"class {index}" for index in range(250))
    model = Classifier(FINE, 250)
    artifact = save_artifact(tmp_path / "model", model.eval(), Details(classes=classes))
    head, body = sections(model_card(read_artifact(artifact), NAME))
    assert "license" not in head
    assert "No licence was stated" in body
    assert "No metric was recorded" in body
    assert "class 199, and 50 more." in body
    assert "class 200," not in body


def test_a_dry_run_sends_nothing(hub, artifact, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    pushed = push_to_hub(artifact, NAME, dry_run=tmp_path / "there")
    assert pushed.reference == f"hf:{NAME}"
    assert not hub.requests
    assert sorted(file.name for file in (tmp_path / "there").iterdir()) == FILES
    assert {name: (tmp_path / "there" / name).stat().st_size for name in FILES} == pushed.files
    assert beit.load(tmp_path / "there").classes == CLASSES
    with pytest.raises(RunFolderError, match="nothing is overwritten"):
        push_to_hub(artifact, NAME, dry_run=tmp_path / "there")


def test_updating_commits_to_what_is_there(hub, artifact):
    push_to_hub(artifact, NAME)
    hub.requests.clear()
    push_to_hub(artifact, f"hf:{NAME}", update=True, public=True, license="mit")
    assert hub.visible == {NAME: "private"}
    assert hub.messages == ["Upload a model of beit"] * 2
    assert "/api/repos/create" not in [path for _, path in hub.requests]
    assert b"license: mit" in hub.repositories[NAME]["README.md"]


@pytest.mark.parametrize(
    ("options", "kind", "problem", "remedy"),
    [
        ({"repository": "other/shapes"}, ConfigError, "may not write to other/shapes: You may not "
         "create a model for other", "a name whose owner you are"),
        ({"repository": f"{OWNER}/taken"}, ConfigError, "exists on the hub: .*already created",
         "--update"),
        ({"repository": f"{OWNER}/absent", "update": True}, ConfigError, "the hub has no",
         "leave --update out"),
        ({"license": "mine"}, ConfigError, "license must be one of", ""),
        ({"license": "my own"}, ConfigError, "not an identifier of a licence", "e.g. mit"),
        ({"repository": "shapes"}, ConfigError, "names no repository", "owner/name"),
        ({"repository": "hf:owner/shapes@main"}, ConfigError, "names no repository", "owner/name"),
        ({"repository": "owner/shapes/file"}, ConfigError, "names no repository", "owner/name"),
        ({"repository": "owner/-x-"}, ConfigError, "is not a name on the hub", "another name"),
    ],
)  # fmt: skip
def test_what_the_hub_refuses(hub, artifact, options, kind, problem, remedy):
    hub.repositories[f"{OWNER}/taken"] = {}
    with pytest.raises(kind, match=problem) as caught:
        push_to_hub(**{"artifact": artifact, "repository": NAME} | options)
    assert remedy in caught.value.remedy
    assert not hub.messages


def test_without_a_token_nothing_is_asked(hub, artifact, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match=r"no token for the hub[\s\S]*hf auth login"):
        push_to_hub(artifact, NAME)
    assert not hub.requests


def test_a_token_that_is_none(hub, artifact, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(ConfigError, match=r"does not know this token: Invalid credentials"):
        push_to_hub(artifact, NAME)
    assert hub.repositories == {}


def test_a_hub_that_breaks(hub, artifact):
    hub.broken.add("/api/repos/create")
    with pytest.raises(ResourceError, match=r"shapes was not made on the hub: .* 500 Internal Err"):
        push_to_hub(artifact, NAME)
    hub.broken = {f"/api/models/{NAME}/commit/main"}
    with pytest.raises(ResourceError, match="nothing was committed") as caught:
        push_to_hub(artifact, NAME)
    assert "--update" in caught.value.remedy
    hub.broken, hub.full = set(), True
    with pytest.raises(ConfigError, match=r"may not write to .*not to be stored"):
        push_to_hub(artifact, NAME, update=True)
    hub.full = False
    assert push_to_hub(artifact, NAME, update=True).reference.endswith(COMMIT)


def test_no_hub(hub, artifact, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ResourceError, match=r"was not made on the hub: .*refused"):
        push_to_hub(artifact, NAME)


def test_a_damaged_model_is_not_sent(hub, artifact):
    weights = artifact / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="is damaged"):
        push_to_hub(artifact, NAME)
    assert not hub.requests


def test_on_the_command_line(hub, artifact, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    shutil.move(artifact, tmp_path / "run" / "model")
    line = ["push", str(tmp_path / "run"), NAME, "--license", "mit", "--public"]
    assert main([*line, "--dry-run", str(tmp_path / "there")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'there'}\n"
    assert not hub.requests
    assert main(line) == 0
    assert capsys.readouterr().out == f"hf:{NAME}@{COMMIT}\n"
    assert hub.visible == {NAME: "public"}
    assert main(line) == 2
    assert "exists on the hub" in capsys.readouterr().err


def test_a_predictor_is_pushed_and_saved_as_it_is_now(hub, artifact, tmp_path):
    predictor = beit.Predictor.from_pretrained(artifact)
    with torch.no_grad():
        predictor.model.head.bias.fill_(3)
    pushed = predictor.push_to_hub(NAME, license="mit")
    assert isinstance(pushed, Pushed)
    predictor.save_pretrained(tmp_path / "kept" / "here")
    for reference in (pushed.reference, tmp_path / "kept" / "here"):
        again = beit.Predictor.from_pretrained(reference)
        assert again.classes == CLASSES
        assert again.artifact.details == predictor.artifact.details
        for name, value in predictor.model.state_dict().items():
            assert torch.equal(again.model.state_dict()[name], value)
    with pytest.raises(RunFolderError, match="nothing is overwritten"):
        predictor.save_pretrained(tmp_path / "kept")
    fast = predictor.optimized()
    for publish in (fast.push_to_hub, fast.save_pretrained):
        with pytest.raises(ConfigError, match="optimized model cannot be saved"):
            publish(f"{OWNER}/fast")


def test_errors_keep_their_kind_on_their_way(hub, artifact):
    """A config that cannot be read is the artifact's fault, not the hub's."""
    config = json.loads((artifact / "config.json").read_text())
    (artifact / "config.json").write_text(json.dumps(config | {"format": 99}))
    with pytest.raises(BeitError, match=r"artifact .* in format 99"):
        push_to_hub(artifact, NAME)
    assert not hub.requests
