"""A file alone, in another runtime, gives what the model gives; a wrong one is never published."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import beit
from beit.cli import main
from beit.config import VisionTransformerConfig
from beit.config.segmentation import SETRConfig, UperNetConfig
from beit.data.augment import central_view
from beit.errors import ConfigError, ExportError, RunFolderError
from beit.models.heads import Classifier
from beit.models.position import RelativePositionBias
from beit.models.segmenter import Segmenter
from beit.tokenizers import build_tokenizer
from beit.weights.export import ENDINGS, formats
from beit.weights.export.layers import AnyGridBias, CentralView
from beit.weights.store import Details, save_artifact
from miniature import VAE

pytestmark = pytest.mark.usefixtures("unchecked")

NAMES = ("disc", "stripes", "tiles")
BACKBONE = VisionTransformerConfig(
    size=(16, 24), patch=4, width=24, depth=4, heads=2, hidden=48, absolute_position=True,
    relative_position="per-block", mask_token=False,
)  # fmt: skip
ALONE = """
import json, sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
images = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], session.run(None, {"images": images})[0])
print(json.dumps(session.get_modelmeta().custom_metadata_map))
assert not {"torch", "beit"} & set(sys.modules)
"""


def lively(model: nn.Module) -> nn.Module:
    """With weights that make every part matter."""
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.15)
    return model.eval()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = lively(Classifier(replace(BACKBONE, depth=2), len(NAMES)))
    folder = tmp_path_factory.mktemp("models") / "classifier"
    secret = {"data": "/home/somebody/secret", "from": "hf_token"}
    return save_artifact(folder, model, Details(classes=NAMES, crop=0.875, trained=secret))


def test_onnx_runs_without_us_and_says_what_it_is(
    classifier: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Uint8 images of any size go in: nothing is left that another runtime could get wrong."""
    with caplog.at_level("INFO"):
        done = beit.export(classifier, tmp_path / "c.onnx", preprocess="resize")
    assert "c.onnx and comparing its answers" in caplog.text  # it takes a while
    assert done.parity.batches == (1, 2, 7)
    assert len(done.parity.sizes) == 3
    assert done.parity.same == 1
    assert done.parity.difference < 1e-4 < done.parity.scale
    images = np.random.default_rng(0).integers(0, 256, (3, 50, 41, 3), dtype=np.uint8)
    np.save(tmp_path / "in.npy", images)
    said = subprocess.run(
        [sys.executable, "-c", ALONE, "c.onnx", "in.npy", "out.npy"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    predictor = beit.load(classifier)
    logits = torch.from_numpy(np.load(tmp_path / "out.npy"))
    expected = predictor.probabilities(images)
    # Resized pixels may differ by one level.
    torch.testing.assert_close(logits.softmax(dim=1), expected, atol=5e-3, rtol=0)
    told = json.loads(said.stdout)
    assert json.loads(told["classes"]) == list(NAMES)
    assert json.loads(told["mean"]) == list(BACKBONE.mean)
    assert (json.loads(told["size"]), told["crop"]) == ([16, 24], "0.875")
    assert json.loads(told["versions"])["beit"] == beit.__version__
    assert len(told["weights_sha256"]) == 64
    written = onnx.load(tmp_path / "c.onnx")  # for runtimes of 2022 and later
    assert [(one.domain, one.version) for one in written.opset_import] == [("", 18)]
    assert written.ir_version == 8


@pytest.mark.parametrize(
    "to",
    ["onnx", *(pytest.param(to, marks=pytest.mark.slow) for to in ("torch", "openvino"))],
)
def test_a_dynamic_size_is_read_as_the_model_reads_it(
    classifier: Path, tmp_path: Path, to: formats.Format
) -> None:
    """Positions are resized in the file, for sizes that the export itself did not check."""
    out = tmp_path / f"out{ENDINGS.get(to, '')}"
    done = beit.export(classifier, out, to=to, dynamic=True)
    assert done.parity.sizes == ((16, 24), (8, 20), (28, 28))
    file = out / "model.xml" if to == "openvino" else out
    run = formats.open_file(file, to)
    model = beit.load(classifier).model
    for batch, size in ((1, (8, 8)), (3, (32, 12)), (2, (64, 40))):
        images = torch.randn(batch, 3, *size)
        found = torch.from_numpy(run(images.numpy())[0])
        torch.testing.assert_close(found, model(images), atol=1e-4, rtol=0)
    for path in out.iterdir() if to == "openvino" else [file]:
        content = path.read_bytes()
        for leak in (b"/home/", b"site-packages", str(Path(beit.__file__).parent).encode(),
                     b"hf_token", str(tmp_path).encode()):  # fmt: skip
            assert leak not in content


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lower_precision_tells_its_cost(
    trained: Any, class_folders: Path, tmp_path: Path, precision: Any
) -> None:
    out = tmp_path / "small.onnx"
    done = beit.export(
        trained.classifier, out, precision=precision, data=str(class_folders), samples=9
    )
    assert done.parity.accuracy is not None
    measured = beit.load(trained.classifier)
    assert done.samples == "9 images of --data"
    assert 0 < done.parity.difference < 0.1 * done.parity.scale
    assert f"{precision} costs" in str(done)
    kinds = {node.op_type for node in onnx.load(out).graph.node}
    assert ("MatMulInteger" in kinds) == (precision == "int8")
    assert len(measured.classes) == 3


@pytest.mark.parametrize(
    ("answer", "names"), [("logits", ["logits"]), ("features", ["features", "patches"])]
)
def test_segmenters(tmp_path: Path, answer: Any, names: list[str]) -> None:
    head = UperNetConfig(head_channels=8, auxiliary_channels=8)
    folder = save_artifact(tmp_path / "s", lively(Segmenter(BACKBONE, 3, head)),
                           Details(classes=NAMES))  # fmt: skip
    beit.export(folder, tmp_path / "s.onnx", answer=answer, preprocess="normalise")
    session = onnxruntime.InferenceSession(tmp_path / "s.onnx")
    assert [output.name for output in session.get_outputs()] == names
    images = torch.randint(0, 256, (5, 16, 24, 3), dtype=torch.uint8)
    found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    predictor = beit.load(folder)
    expected = (
        predictor.model(images.permute(0, 3, 1, 2))
        if answer == "logits"
        else predictor.embed(images.numpy())
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    with pytest.raises(ConfigError, match="UperNet pools"):
        beit.export(folder, tmp_path / "no.onnx", dynamic=True)
    with pytest.raises(ConfigError, match="other pixels"):
        beit.export(folder, tmp_path / "no.onnx", preprocess="resize")


def test_a_segmenter_of_any_size_in_a_newer_opset(tmp_path: Path) -> None:
    model = lively(Segmenter(BACKBONE, 3, SETRConfig(head_channels=8)))
    folder = save_artifact(tmp_path / "s", model, Details(classes=NAMES))
    beit.export(folder, tmp_path / "s.onnx", dynamic=True, opset=20)
    images = torch.randn(1, 3, 20, 36)
    session = onnxruntime.InferenceSession(tmp_path / "s.onnx")
    found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    torch.testing.assert_close(found, model(images), atol=1e-4, rtol=0)
    written = onnx.load(tmp_path / "s.onnx")
    assert [one.version for one in written.opset_import] == [20]
    assert written.ir_version == 9


@pytest.mark.parametrize("kind", ["dvae", "vqkd"])
def test_tokenizers(tmp_path: Path, golden: Callable[[str], Any], kind: str) -> None:
    if kind == "dvae":
        source: Path = save_artifact(tmp_path / "t", build_tokenizer(VAE), Details())
    else:
        torch.save({"model": golden("v2_vqkd")["model"]}, tmp_path / "v.pth")
        loaded = beit.load(tmp_path / "v.pth", heads=3).artifact
        source = save_artifact(tmp_path / "t", loaded.model, loaded.details)
    beit.export(source, tmp_path / "t.onnx", dynamic=True, preprocess="normalise")
    tokenizer = beit.load(source).model
    unit = tokenizer.config.downsampling
    images = torch.randint(0, 256, (3, 3 * unit, 5 * unit, 3), dtype=torch.uint8)
    session = onnxruntime.InferenceSession(tmp_path / "t.onnx")
    (tokens,) = session.run(["tokens"], {"images": images.numpy()})
    assert np.array_equal(tokens, tokenizer.encode(images.permute(0, 3, 1, 2)).numpy())
    assert len(np.unique(tokens)) > 1


def test_a_file_that_is_not_the_model_is_not_published(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = formats.open_file

    def slightly_wrong(file: Path, to: formats.Format) -> formats.Run:
        run = opened(file, to)
        return lambda images: [output + np.float32(2e-4) for output in run(images)]

    monkeypatch.setattr(formats, "open_file", slightly_wrong)
    with pytest.raises(ExportError, match=r"differ by up to 2\.0e-04"):
        beit.export(classifier, tmp_path / "c.pt2", to="torch")

    def frozen_at_two(file: Path, to: formats.Format) -> formats.Run:
        run = opened(file, to)
        return lambda images: run(images[:2])

    monkeypatch.setattr(formats, "open_file", frozen_at_two)
    with pytest.raises(ExportError, match="7 images of 16 x 24 give"):
        beit.export(classifier, tmp_path / "c.pt2", to="torch")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused_early(classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "there.onnx").mkdir()
    with pytest.raises(RunFolderError, match="nothing is overwritten"):
        beit.export(classifier, tmp_path / "there.onnx")
    for options, reason in (
        ({"answer": "tokens"}, "gives no tokens"),
        ({"size": (15, 16)}, "patches of 4"),
        ({"dynamic": True, "preprocess": "resize"}, "one size to resize to"),
        ({"to": "torch", "precision": "int8"}, "precision of ONNX"),
        ({"opset": 17}, "opset 18 to 23, not 17"),
        ({"to": "torch", "opset": 20}, "an opset belongs to ONNX"),
    ):
        with pytest.raises(ConfigError, match=reason):
            beit.export(classifier, tmp_path / f"no{ENDINGS[options.get('to', 'onnx')]}", **options)
    with pytest.raises(ConfigError, match=r"name it no\.pt2"):
        beit.export(classifier, tmp_path / "no.onnx", to="torch")
    with pytest.raises(ConfigError, match=r"no\.onx does not[\s\S]*name it no\.onnx"):
        beit.export(classifier, tmp_path / "no.onx")
    assert [path.name for path in tmp_path.iterdir()] == ["there.onnx"]


def test_a_kill_leaves_no_half_file(
    classifier: Path, tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed once the file is being checked; then the same command does it."""
    words = ["export", str(classifier), "c.pt2", "--to", "torch"]
    command = [sys.executable, "-m", "beit.cli", *words]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment)
    written = tmp_path / ".exporting-c.pt2" / "model.pt2"
    while not written.exists():
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "c.pt2").exists()
    monkeypatch.chdir(tmp_path)
    assert main(words) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt2"]


@pytest.mark.parametrize("new", [(1, 1), (3, 5), (4, 6), (9, 7)])
def test_bias_of_any_grid(new: tuple[int, int]) -> None:
    learned = RelativePositionBias(grid=(4, 6), heads=3)
    nn.init.normal_(learned.relative_position_bias_table)
    torch.testing.assert_close(AnyGridBias(learned, 9)(new), learned(new))


@pytest.mark.parametrize("shape", [(40, 48), (301, 97), (16, 24), (9, 200), (12, 7)])
@pytest.mark.parametrize("resize", ["cover", "stretch"])
@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
def test_resizing_is_that_of_prediction(shape: tuple[int, int], resize, kernel) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for size, crop in (((16, 24), 0.875), ((32, 32), 1.0)):
        graph = CentralView(size, crop, resize, kernel)
        ours = graph(torch.from_numpy(image)[None])[0].permute(2, 0, 1)
        expected = central_view(image, size, crop, resize, kernel)
        difference = (ours.int() - expected.int()).abs()
        assert difference.max() <= 1
        # Weights of the bilinear filter are fractions of few parts: half levels are common, and
        # are rounded either way.
        assert difference.float().mean() < (0.05 if kernel == "bicubic" else 0.1)
