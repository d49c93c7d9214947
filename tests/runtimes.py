"""Open exported files in other runtimes than the one that checks them; prints a line for each.

    python tests/runtimes.py FOLDER...

A folder holds one version of onnxruntime: `uv pip install --target FOLDER onnxruntime==1.16.3
"numpy<2"`, or `npm install --prefix FOLDER onnxruntime-web` (or -node).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

import beit
from beit.config import VisionTransformerConfig, VQKDConfig
from beit.config.segmentation import SETRConfig, UperNetConfig
from beit.models.heads import Classifier
from beit.models.segmenter import Segmenter
from beit.tokenizers import build_tokenizer
from beit.weights.export.formats import open_file
from beit.weights.export.graph import Precision, Preprocess
from beit.weights.store import Details, save_artifact
from miniature import VAE

BACKBONE = VisionTransformerConfig(
    size=(16, 24), patch=4, width=24, depth=4, heads=2, hidden=48, absolute_position=True,
    relative_position="per-block", mask_token=False,
)  # fmt: skip
VQKD = VQKDConfig(
    size=(16, 16), patch=4, codes=12, codebook_width=6, width=32, depth=2, heads=2, decoder_depth=1
)
PYTHON = """
import sys, numpy, onnxruntime
print("onnxruntime", onnxruntime.__version__)
for line in sys.stdin:
    stem, shape, kind = line.split()
    images = numpy.fromfile(stem + ".in", kind).reshape([int(side) for side in shape.split("x")])
    session = onnxruntime.InferenceSession(stem + ".onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": images})[0]
    found.astype("float64").tofile(stem + ".out")
"""
NODE = """
const fs = require("fs"), path = require("path");
const [folder, name] = process.argv.slice(1);
const place = path.join(folder, "node_modules", name);
console.log(name, require(path.join(place, "package.json")).version);
(async () => {
  const ort = require(place);
  for (const line of fs.readFileSync(0, "utf8").trim().split("\\n")) {
    const [stem, shape, kind] = line.split(" ");
    const bytes = fs.readFileSync(stem + ".in");
    const data = kind === "uint8" ? new Uint8Array(bytes)
      : new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    const file = new Uint8Array(fs.readFileSync(stem + ".onnx"));
    const session = await ort.InferenceSession.create(file);
    const images = new ort.Tensor(kind, data, shape.split("x").map(Number));
    const found = (await session.run({ images }))[session.outputNames[0]];
    fs.writeFileSync(stem + ".out", Buffer.from(Float64Array.from(found.data, Number).buffer));
  }
})().catch((error) => { console.error(String(error)); process.exit(1); });
"""


class Case(NamedTuple):
    """A file to try."""

    name: str
    model: nn.Module
    shape: tuple[int, ...]
    preprocess: Preprocess = "none"
    dynamic: bool = False
    precision: Precision = "fp32"
    answer: str | None = None


def cases() -> list[Case]:
    """Every kind of model, and every way to write it."""
    torch.manual_seed(0)
    classifier = Classifier(BACKBONE, 3)
    upernet = Segmenter(BACKBONE, 3, UperNetConfig(head_channels=8, auxiliary_channels=8))
    setr = Segmenter(BACKBONE, 3, SETRConfig(head_channels=8))
    for model in (classifier, upernet, setr):
        for weight in model.parameters():
            nn.init.normal_(weight, std=0.15)
    floats, image = (3, 3, 20, 36), (3, 20, 36, 3)
    return [
        Case("classifier", classifier, (3, 50, 41, 3), "resize"),
        Case("classifier-dynamic", classifier, floats, dynamic=True),
        Case("classifier-fp16", classifier, (3, 16, 24, 3), "normalise", precision="fp16"),
        Case("classifier-int8", classifier, (3, 16, 24, 3), "normalise", precision="int8"),
        Case("features", classifier, (3, 50, 41, 3), "resize", answer="features"),
        Case("upernet", upernet, (3, 16, 24, 3), "normalise"),
        Case("setr-dynamic", setr, floats, dynamic=True),
        Case("dvae-dynamic", build_tokenizer(VAE), image, "normalise", dynamic=True),
        Case("vqkd-dynamic", build_tokenizer(VQKD), image, "normalise", dynamic=True),
    ]


def write(folder: Path) -> list[tuple[Path, str, np.ndarray]]:
    """Export all; of each the place, a line for the runtimes, and what ours answers."""
    draw, found = np.random.default_rng(0), []
    for case in cases():
        stem = folder / case.name
        artifact = save_artifact(stem, case.model.eval(), Details(classes=tuple("abc")))
        file = stem.with_suffix(".onnx")
        beit.export(
            artifact, file, preprocess=case.preprocess, dynamic=case.dynamic,
            precision=case.precision, answer=case.answer,
        )  # fmt: skip
        images = draw.integers(0, 256, case.shape, dtype=np.uint8)
        if case.preprocess == "none":
            images = draw.normal(size=case.shape).astype(np.float32)
        images.tofile(stem.with_suffix(".in"))
        line = f"{stem} {'x'.join(map(str, case.shape))} {images.dtype}"
        found.append((stem, line, open_file(file, "onnx")(images)[0]))
    return found


def run(folder: Path, lines: str) -> str:
    """Run one installed runtime over all files; its name and version, or why it cannot."""
    command, environment = [sys.executable, "-c", PYTHON], {**os.environ, "PYTHONPATH": str(folder)}
    for name in ("onnxruntime-web", "onnxruntime-node"):
        if (folder / "node_modules" / name).is_dir():
            command = ["node", "-e", NODE, str(folder), name]
    done = subprocess.run(command, input=lines, env=environment, capture_output=True, text=True)
    fault = done.stderr.strip().splitlines()[-1] if done.returncode else ""
    return f"{done.stdout.strip()} {fault}".strip()


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        files = write(Path(place))
        for folder in map(Path, sys.argv[1:]):
            results, name = {}, ""
            for stem, line, expected in files:
                name = run(folder.resolve(), line)
                out = stem.with_suffix(".out")
                if not out.exists():
                    results[stem.name] = "failed"
                    continue
                apart = np.abs(np.fromfile(out) - expected.ravel().astype(float))
                results[stem.name] = f"{apart.max() / max(1, np.abs(expected).max()):.0e}"
                out.unlink()
            print(name, json.dumps(results))


if __name__ == "__main__":
    main()
