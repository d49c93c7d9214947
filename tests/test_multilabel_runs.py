"""Several labels per image, from the folder to the server: trained, measured, used, shipped."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import beit
import several_labels
from beit.cli import main
from beit.errors import DataError
from beit.report.classification import Validation
from beit.training.run_folder import read_run_config
from beit.weights.convert import convert
from beit.weights.push import model_card
from beit.weights.store import EVEN, load_artifact, read_artifact, save_artifact
from served import serving
from several_labels import LABELS, OPTIONS, SHORT


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 images in the folders of their labels, 140 of which have any."""
    root = tmp_path_factory.mktemp("labels") / "data"
    several_labels.write(root, 160, links=True)
    return root


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on the command line, long enough to know something."""
    out = tmp_path_factory.mktemp("run") / "run"
    words = ["--data", str(data), "--multi-label", "--out", str(out), "--size", "32", "32"]
    words += ["--steps", "60", "--warmup-steps", "5", "--batch", "32", "--evaluate-every", "30"]
    words += ["--workers", "0", "--device", "cpu", "--precision", "fp32"]
    assert main(["finetune", "tiny", *words]) == 0
    return out


def rows(run: Path, kind: str) -> list[dict[str, float]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def test_labels_are_learned_and_the_best_is_published(run):
    scores = rows(run, "evaluate")
    assert [score["step"] for score in scores] == [30, 60]
    assert all(score["map"] > score["chance_map"] + 0.15 for score in scores)
    artifact = load_artifact(run)
    details = artifact.details
    assert details.multi_label
    assert details.classes == LABELS
    assert len(details.thresholds) == 3
    best = max(scores, key=lambda score: (score["map"], score["step"]))
    assert details.trained["metrics"]["map"] == best["map"]
    log = (run / "log.txt").read_text()
    assert "note: multi-label classification: the 111 training images have" in log
    assert "80 have several labels" in log


def test_evaluation_repeats_what_the_run_measured(run, data):
    found = beit.evaluate(str(run), data=str(data))
    metrics = load_artifact(run).details.trained["metrics"]
    assert found.images == 29
    assert found.mean_average_precision == pytest.approx(metrics["map"], abs=1e-9)
    assert found.macro_f1 == pytest.approx(metrics["macro_f1"], abs=1e-9)
    assert found.binary_cross_entropy == pytest.approx(metrics["loss"], abs=1e-6)
    assert found.chance_average_precision == pytest.approx(metrics["chance_map"])


def test_starting_from_it_takes_its_backbone(run, data, tmp_path):
    options = SHORT | {"steps": 2, "size": None}
    options = {name: value for name, value in options.items() if value is not None}
    started = beit.finetune(
        "tiny", data=str(data), init=str(run), out=str(tmp_path / "again"), **options
    )
    assert load_artifact(started.folder).details.multi_label


def draw(*names: str, seed: int = 9) -> np.ndarray:
    return several_labels.draw(
        {name: name in names for name in LABELS}, np.random.default_rng(seed)
    )


def test_predictions_are_independent_and_count_from_their_thresholds(run):
    model = beit.load(run)
    pixels = draw("red", "framed")
    every = model.predict(pixels, top=99)
    logits = model.model(model.prepare(pixels)[None])[0].detach()
    assert {label.name for label in every} == set(LABELS)
    for label in every:
        place = LABELS.index(label.name)
        assert label.probability == pytest.approx(float(logits[place].sigmoid()), abs=1e-6)
        assert label.threshold == model.artifact.details.thresholds[place]
    assert model.predict(pixels) == [label for label in every if label.selected]
    assert model.predict(pixels, top=1) == every[:1]
    assert [label.probability for label in every] == sorted(
        (label.probability for label in every), reverse=True
    )
    assert "red" in {label.name for label in model.predict(pixels)}
    assert "red" not in {label.name for label in model.predict(draw("framed"))}


def with_thresholds(run: Path, out: Path, thresholds: tuple[float, ...]) -> Path:
    artifact = load_artifact(run)
    return save_artifact(out, artifact.model, replace(artifact.details, thresholds=thresholds))


def test_an_image_may_have_no_label(run, tmp_path, capsys):
    place = with_thresholds(run, tmp_path / "strict", (1.0, 1.0, 1.0))
    image = tmp_path / "image.png"
    several_labels.Image.fromarray(draw("red")).save(image)
    assert beit.load(place).predict(image) == []
    assert main(["predict", str(place), str(image)]) == 0
    assert "no label" in capsys.readouterr().out
    assert main(["predict", str(place), str(image), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == []
    assert main(["predict", str(place), str(image), "--format", "csv"]) == 0
    assert list(csv.reader(io.StringIO(capsys.readouterr().out)))[1] == [str(image), "", "", "", ""]


def test_a_model_without_thresholds_counts_from_one_half(run, tmp_path):
    reads = replace(load_artifact(run).details, thresholds=())
    assert reads.effective_thresholds == (EVEN,) * 3
    logits = torch.tensor([[0.1, -0.1, 3.0]])
    assert reads.decided(logits).tolist() == [[True, False, True]]


def test_lines_of_csv_hold_any_name(run, tmp_path, capsys):
    image = os.fsencode(tmp_path) + b"/a\xff\x1b[1m,\nb.png"
    buffer = io.BytesIO()
    several_labels.Image.fromarray(draw("red")).save(buffer, "PNG")
    with open(image, "wb") as file:  # noqa: PTH123 (a name of bytes)
        file.write(buffer.getvalue())
    assert main(["predict", str(run), str(tmp_path), "--top", "1", "--format", "csv"]) == 0
    (line,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert line["image"].endswith(r"/a\udcff\x1b[1m,\nb.png")
    assert line["class"] == "red"


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_the_command_line_prints_independent_probabilities(
    run, tmp_path, capsys, monkeypatch, form
):
    monkeypatch.setenv("COLUMNS", "300")
    image = tmp_path / "image.png"
    several_labels.Image.fromarray(draw("red", "framed", "striped")).save(image)
    expected = beit.load(run).predict(image, top=3)
    assert main(["predict", str(run), str(image), "--top", "3", "--format", form]) == 0
    out = capsys.readouterr().out
    if form == "json":
        assert json.loads(out)["labels"] == [label.answer() for label in expected]
    elif form == "csv":
        lines = list(csv.DictReader(io.StringIO(out)))
        assert [(line["class"], float(line["probability"])) for line in lines] == [
            (label.name, label.probability) for label in expected
        ]
    else:
        for label in expected:
            assert (
                f"{label.probability:.1%}" in out or f"{label.name} {label.probability:.0%}" in out
            )


def test_a_single_label_model_answers_as_ever(trained, class_folders, capsys):
    image = class_folders / "disc" / "00.png"
    assert main(["predict", str(trained.classifier), str(image), "--format", "json"]) == 0
    labels = json.loads(capsys.readouterr().out)["labels"]
    assert sum(label["probability"] for label in labels) == pytest.approx(1)
    assert all(label.keys() == {"name", "probability"} for label in labels)


def test_the_table_has_each_label(run, data, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["evaluate", str(run), "--data", str(data)]) == 0
    out = capsys.readouterr().out
    for word in ("mean average precision", "of answering at random", "macro F1", *LABELS):
        assert word in out
    assert main(["evaluate", str(run), "--data", str(data), "--format", "json", "--flip"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["flip"]
    assert [each["name"] for each in found["classes"]] == list(LABELS)
    assert all(0 < each["average_precision"] <= 1 for each in found["classes"])
    assert all(each["threshold"] for each in found["classes"])


def test_a_label_map_names_all_labels_of_an_image(run, tmp_path):
    for name, labels in {"one": ("red",), "two": ("red", "framed"), "none": ()}.items():
        several_labels.Image.fromarray(draw(*labels)).save(tmp_path / f"{name}.png")
    right = {"one.png": "red", "two.png": ["framed", "red"], "none.png": []}
    (tmp_path / "map.json").write_text(json.dumps(right))
    found = beit.evaluate(str(run), data=str(tmp_path), labels=str(tmp_path / "map.json"))
    assert found.images == 3
    assert found.without_labels == 1
    assert {each.name: each.support for each in found.classes} == {
        "framed": 1, "red": 2, "striped": 0
    }  # fmt: skip
    assert found.unmeasured == 1
    assert next(each for each in found.classes if each.name == "striped").f1 is None


def test_labels_of_another_name_are_refused(run, tmp_path):
    several_labels.write(tmp_path / "data", 16)
    (tmp_path / "data" / "striped").rename(tmp_path / "data" / "stripped")
    with pytest.raises(DataError, match=r"1 of 3 labels are none of the model's: 'stripped'"):
        beit.evaluate(str(run), data=str(tmp_path / "data"))


def test_a_model_of_one_class_does_not_take_several_labels(trained, tmp_path):
    datasets = pytest.importorskip("datasets")
    several_labels.write(tmp_path / "images", 16)
    files = sorted(map(str, (tmp_path / "images").rglob("*.png")))[:4]
    labels = datasets.Sequence(datasets.ClassLabel(names=["disc", "tiles"]))
    features = datasets.Features({"image": datasets.Image(), "label": labels})
    content = {"image": files, "label": [[0], [0, 1], [], [1]]}
    datasets.Dataset.from_dict(content, features).save_to_disk(tmp_path / "set")
    with pytest.raises(DataError, match="answers one class"):
        beit.evaluate(str(trained.classifier), data=str(tmp_path / "set"))
    with pytest.raises(DataError, match="the nearest-neighbour score takes one class"):
        beit.pretrain(
            "tiny",
            data=str(tmp_path / "images"),
            labelled=str(tmp_path / "set"),
            out=str(tmp_path / "pretrained"),
            target="pixels",
            device="cpu",
        )
    assert not (tmp_path / "pretrained").exists()


def test_pretraining_on_such_images_needs_no_labels(tmp_path):
    datasets = pytest.importorskip("datasets")
    several_labels.write(tmp_path / "images", 16)
    files = sorted(map(str, (tmp_path / "images").rglob("*.png")))
    labels = datasets.Sequence(datasets.ClassLabel(names=["disc", "tiles"]))
    features = datasets.Features({"image": datasets.Image(), "label": labels})
    content = {"image": files, "label": [[0, 1][: number % 3] for number in range(len(files))]}
    datasets.Dataset.from_dict(content, features).save_to_disk(tmp_path / "set")
    options = {name: value for name, value in OPTIONS.items() if name != "multi_label"}
    options |= {"steps": 2, "warmup_steps": 1, "batch": 4, "target": "pixels"}
    pretrained = beit.pretrain(
        "tiny", data=str(tmp_path / "set"), out=str(tmp_path / "run"), **options
    )
    assert "retrieval" in pretrained.metrics
    assert "are not used to score" in (pretrained.folder / "log.txt").read_text()


def test_probes_are_measured_by_average_precision(run, data, tmp_path, capsys):
    words = ["--multi-label", "--data", str(data), "--out", str(tmp_path / "probe")]
    assert main(["probe", str(run), *words, "--epochs", "40", "--workers", "0"]) == 0
    out = capsys.readouterr().out
    assert "mean average precision" in out
    assert "are skipped" in out
    found = json.loads((tmp_path / "probe" / "probe.json").read_text())
    assert found["measure"] == "mean average precision"
    assert found["images"] == {"train": 111, "validation": 29}
    assert {one["method"] for one in found["chosen"]} == set(found["blocks"])
    assert all(one["validation"] > 0.75 for one in found["chosen"])
    assert found["few"] == []
    assert "Mean average precision per block" in (tmp_path / "probe" / "probe.html").read_text()


@pytest.mark.parametrize("to", ["torch", "openvino"])
def test_exports_decide_the_same_labels(run, data, tmp_path, to, unchecked):
    """That of ONNX is on the page, and OpenVINO's is made of it."""
    pytest.importorskip(to)
    ending = {"torch": ".pt2", "openvino": ""}[to]
    found = beit.export(run, tmp_path / f"model{ending}", to=to, data=str(data), samples=16)
    assert found.parity.same == 1.0
    assert found.parity.accuracy is None
    assert found.metadata["multi_label"] == "true"
    details = load_artifact(run).details
    assert json.loads(found.metadata["thresholds"]) == list(details.thresholds)
    assert "same     labels in 100.00%" in str(found)


def test_transformers_reads_it_as_multi_label(run, data, tmp_path):
    transformers = pytest.importorskip("transformers")
    place, notes = convert(run, tmp_path / "hf", to="hf")
    assert any("thresholds" in note for note in notes)
    theirs = transformers.BeitForImageClassification.from_pretrained(place).eval()
    assert theirs.config.problem_type == "multi_label_classification"
    ours = beit.load(run)
    images = torch.stack([ours.prepare(path) for path in sorted(data.glob("red/*.png"))[:4]])
    with torch.no_grad():
        found = theirs(ours.model.backbone.normalise(images)).logits.sigmoid()
    expected = ours.probabilities(sorted(data.glob("red/*.png"))[:4])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_model_card_says_what_its_probabilities_are(run):
    text = model_card(read_artifact(run), "owner/tags")
    assert "names the labels of an image, any number of them" in text
    threshold = load_artifact(run).details.thresholds[1]
    assert f"red (from {threshold:.3f})" in text


@pytest.mark.parametrize("to", ["timm", "unilm"])
def test_what_other_layouts_cannot_say_is_said(run, tmp_path, to):
    _, notes = convert(run, tmp_path / f"there.{to}", to=to)
    thresholds = ", ".join(map(str, load_artifact(run).details.thresholds))
    assert any(f"multi_label True; thresholds ({thresholds})" in note for note in notes)


def test_the_server_answers_independent_probabilities(run, environment, tmp_path):
    several_labels.Image.fromarray(draw("red", "framed")).save(tmp_path / "image.png")
    image = (tmp_path / "image.png").read_bytes()
    strict = with_thresholds(run, tmp_path / "strict", (1.0, 1.0, 1.0))
    model = beit.load(run)
    with serving(f"tags={run}", f"strict={strict}", environment=environment) as server:
        described = {one["name"]: one for one in server.ask("GET", "/models")[1]["models"]}
        assert described["tags"]["multi_label"]
        for path, expected in (
            ("/predict?model=tags", model.predict(image)),
            ("/predict?model=tags&top=3", model.predict(image, top=3)),
        ):
            labels = server.ask("POST", path, image)[1]["labels"]
            assert [label["name"] for label in labels] == [label.name for label in expected]
            for label, own in zip(labels, expected, strict=True):
                assert label["probability"] == pytest.approx(own.probability, abs=1e-5)
                assert label["threshold"] == own.threshold
        assert server.ask("POST", "/predict?model=strict", image)[1] == {"labels": []}


def test_the_page_shows_each_label_and_independent_bars(run):
    text = (run / "report.html").read_text()
    scores = rows(run, "evaluate")[-1]
    assert "mean average precision, best" in text
    assert f"at random: {100 * scores['chance_map']:.1f}%" in text
    for label in LABELS:
        assert f'<th scope="row">{label}</th>' in text
    assert 'class="track' in text
    assert "--threshold:" in text
    assert "F1 uses thresholds that were chosen on these same images" in text
    assert "No images" not in text


def test_the_surest_answers_are_ordered_by_their_distance(run):
    validation = Validation(run, read_run_config(run))
    found = validation.predict(validation.source)
    given = found.details.decided(found.logits)
    assert torch.equal((given == found.targets).all(dim=1), found.margins > 0)
    assert (found.margins.abs() <= 1).all()


def test_two_runs_are_compared(run, data, tmp_path):
    beit.finetune("tiny", data=str(data), out=str(tmp_path / "other"), **SHORT)
    page = tmp_path / "both.html"
    assert main(["report", str(run), str(tmp_path / "other"), "--out", str(page)]) == 0
    text = page.read_text()
    assert "Images side by side" in text
    assert "mean average precision, best" in text
