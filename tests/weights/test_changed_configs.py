"""The config of an artifact, changed at every place in every way: refused in words, or right."""

from __future__ import annotations

import json
import resource
import time

import pytest

from beit.config import (
    AggregationConfig,
    HeadConfig,
    LinearHeadConfig,
    RandomProjectionConfig,
    SETRConfig,
    UperNetConfig,
    VQConfig,
)
from beit.errors import BeitError, CheckpointError
from beit.models.heads import Classifier, MaskedImageModel, PretrainedBackbone
from beit.models.segmenter import Segmenter
from beit.tokenizers import build_tokenizer
from beit.weights.store import CONFIG, WEIGHTS, Details, artifact_of, read_artifact, save_artifact
from changes import LONG, changes, takes_long
from miniature import BACKBONE, VAE

MODELS = {
    "dvae": lambda: build_tokenizer(VAE),
    "random": lambda: build_tokenizer(RandomProjectionConfig(
        size=(16, 16), patch=8, codes=8, codebook_width=4
    )),
    "vq": lambda: build_tokenizer(VQConfig(
        size=(16, 16), patch=8, codes=8, codebook_width=4, width=8, heads=2, hidden=8, depth=1,
        decoder_depth=1,
    )),
    "masked": lambda: MaskedImageModel(BACKBONE, 12, AggregationConfig(early_layer=1, blocks=1)),
    "backbone": lambda: PretrainedBackbone(BACKBONE),
    "classifier": lambda: Classifier(BACKBONE, 3, HeadConfig(pooling="cls")),
    "upernet": lambda: Segmenter(BACKBONE, 3, UperNetConfig(head_channels=4, auxiliary_channels=4)),
    "setr": lambda: Segmenter(BACKBONE, 3, SETRConfig(head_channels=4)),
    "linear": lambda: Segmenter(BACKBONE, 3, LinearHeadConfig()),
}  # fmt: skip
TRAINED = {
    "recipe": "tiny", "steps": 4, "images": 36, "data": "ab", "from": "x", "notes": ["a note"],
    "division": {"split": 0.2, "seed": 0, "per_class": None}, "metrics": {"top1": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_every_change_is_refused_in_words_or_loads(name, tmp_path):
    classes = ("a", "b", "c") if name in ("classifier", "upernet", "setr", "linear") else ()
    folder = save_artifact(
        tmp_path / "model", MODELS[name](), Details(classes=classes, trained=TRAINED)
    )
    files = read_artifact(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loaded = 0
    # What is not of the architecture is the same for all kinds.
    below = () if name == "classifier" else ("architecture",)
    for path, value, document in changes(json.loads(files.config), below):
        try:
            text = json.dumps(document).encode()
        except ValueError:  # an integer of too many digits for Python, which JSON may hold
            continue
        start = time.process_time()
        shown = (path, repr(value)[:80])
        refused = None

        def load(changed: bytes = text) -> str:
            return artifact_of(files._replace(config=changed)).version()

        try:
            load()
            loaded += 1
        except Exception as error:
            refused = error
        if refused is not None:
            assert isinstance(refused, CheckpointError), (shown, repr(refused))
            assert refused.remedy, shown
            assert len(str(refused)) < 3000, shown
        assert time.process_time() - start < LONG or not takes_long(load), shown
    assert loaded > 10  # what a model is trained by, and what does not matter to it
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


@pytest.mark.parametrize(
    "text",
    [
        '{"format": 1, "format": 1}',
        "[" * 100_000,
        '{"format": ' + "9" * 5000 + "}",
        "\ufeff{}",
        '"\\ud800"',
        b"\xff\xfe{",
        b"\x00",
    ],
)
def test_json_that_is_none(tmp_path, text):
    folder = save_artifact(tmp_path / "model", MODELS["linear"](), Details())
    (folder / CONFIG).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BeitError):
        read_artifact(folder)


def test_weights_that_are_none(tmp_path):
    """Hash and config are right, and the file is of no such format."""
    import hashlib

    folder = save_artifact(tmp_path / "model", MODELS["linear"](), Details())
    for content in (b"", b"\xff" * 64, (10**15).to_bytes(8, "little") + b"{}"):
        (folder / WEIGHTS).write_bytes(content)
        config = json.loads((folder / CONFIG).read_text())
        config["sha256"] = hashlib.sha256(content).hexdigest()
        (folder / CONFIG).write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match="does not hold what"):
            artifact_of(read_artifact(folder))
