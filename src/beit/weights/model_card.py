"""The model card: what an artifact states about itself, for people and for the hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import safetensors.torch
from huggingface_hub import ModelCardData

from beit.terminal import printable
from beit.weights.kinds import KINDS
from beit.weights.store import CONFIG, WEIGHTS, ArtifactFiles

CARD = "README.md"
LIBRARY = "beit"
MOST_CLASSES = 200
SEVERAL = (
    "A Vision Transformer that names the labels of an image, any number of them: each has a "
    "probability of its own."
)
BACKBONE = ("width", "depth", "heads", "patch", "size", "channels", "mean", "std")
ORIGIN = {
    "recipe": "recipe",
    "steps": "steps",
    "images": "images",
    "pictures": "images",  # an old name
    "data": "fingerprint of the images",
    "from": "converted from",
}


def model_card(files: ArtifactFiles, repository: str, *, license: str = "") -> str:  # noqa: A002
    """The text of README.md for `repository` (owner/name): kind and architecture, what it was
    trained on and how, metrics, classes, hashes, how to load it.

    `license` is an identifier of the hub's list, e.g. apache-2.0.
    """
    config = json.loads(files.config)
    kind = KINDS[config["architecture"]["kind"]]
    head = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag=kind.pipeline,
        license=license or None,
        tags=[LIBRARY, kind.name],
    )
    name = repository.rpartition("/")[2]
    stated = f"Licence: {license}." if license else (
        "No licence was stated: ask the owner before using it."
    )  # fmt: skip
    parts = [
        f"---\n{head.to_yaml()}\n---",
        f"# {name}",
        f"{SEVERAL if config.get('multi_label') else kind.summary} {stated}",
        "## Use",
        f'```python\nimport beit\n\nmodel = beit.load("hf:{repository}")\n{kind.use}\n```',
        f"It needs the library `{LIBRARY}`, version {config['versions']['beit']} or later. "
        "`hf:OWNER/NAME@COMMIT` fixes the version of the model.",
        "## Model",
        _table(("", ""), _architecture(config, files.weights)),
        "## Training",
        _training(config),
        *_classes(config["classes"], config.get("thresholds", [])),
        "## Files",
        _table(
            ("file", "bytes", "SHA-256"),
            [
                (name, f"{len(content):,}", hashlib.sha256(content).hexdigest())
                for name, content in ((CONFIG, files.config), (WEIGHTS, files.weights))
            ],
        ),
        f"The weights are safetensors, so loading them runs no code; `{CONFIG}` holds their hash, "
        "and `beit.load` compares it.",
    ]
    return "\n\n".join(parts) + "\n"


def _architecture(config: dict[str, Any], weights: bytes) -> list[tuple[str, str]]:
    architecture = config["architecture"]
    shape = architecture.get("backbone") or architecture["tokenizer"]
    rows = [("kind", architecture["kind"]), ("weights", f"{_count(weights):,}")]
    rows += [
        (name, _text(value))
        for name, value in shape.items()
        if name in BACKBONE or ("backbone" not in architecture and _is_plain(value))
    ]
    if "outputs" in architecture:
        rows.append(("outputs", str(architecture["outputs"])))
    return rows


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float | list)


def _count(weights: bytes) -> int:
    """Numbers in a file of safetensors."""
    return sum(tensor.numel() for tensor in safetensors.torch.load(weights).values())


def _training(config: dict[str, Any]) -> str:
    trained = dict(config["trained"])
    rows = [(words, _text(trained[key])) for key, words in ORIGIN.items() if trained.get(key)]
    rows += [("note", _text(note)) for note in trained.get("notes", ())]
    if config["tokenizer"]:
        rows.append(("SHA-256 of the tokenizer it predicts", config["tokenizer"]))
    rows += [(f"version of {name}", _text(value)) for name, value in config["versions"].items()]
    text = _table(("", ""), rows)
    metrics = trained.get("metrics")
    if not metrics:
        return text + "\n\nNo metric was recorded."
    figures = [(name, f"{value:.4g}") for name, value in metrics.items()]
    return text + "\n\nAt its last evaluation:\n\n" + _table(("metric", "value"), figures)


def _classes(names: list[str], thresholds: list[float]) -> list[str]:
    """The names and, of a multi-label model, the probability from which each label counts."""
    if not names:
        return []
    more = len(names) - MOST_CLASSES
    words = [_text(name) for name in names[:MOST_CLASSES]]
    if thresholds:
        pairs = zip(words, thresholds, strict=False)
        words = [f"{word} (from {threshold:.3f})" for word, threshold in pairs]
    listed = ", ".join(words)
    return ["## Classes", f"{listed}{f', and {more} more' if more > 0 else ''}."]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (head, ("---",) * len(head), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: object) -> str:
    """A value in one cell of a table: on one line, and without meaning to Markdown or HTML."""
    text = value if isinstance(value, str) else json.dumps(value)
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return printable(" ".join(text.split()))
