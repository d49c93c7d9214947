"""Entries of `torch.hub.load(FOLDER OF THIS REPOSITORY, NAME, REFERENCE, source="local")`.

REFERENCE is what `beit.load` takes: a run, an artifact, a released file, hf:owner/name, timm/name
or an address.
"""

import sys
from pathlib import Path as _Path  # torch.hub lists what can be called

dependencies = [
    "torch", "timm", "numpy", "PIL", "simplejpeg", "safetensors", "huggingface_hub", "jaxtyping",
    "rich",
]  # fmt: skip

try:
    import beit as _package  # noqa: F401 (installed)
except ImportError:  # what torch.hub fetched is not
    sys.path.append(str(_Path(__file__).parent / "src"))


def beit(reference, sha256=""):
    """The backbone as a feature extractor with the verbs of timm's models, in evaluation mode."""
    from beit.inference.predictor import load

    return load(reference, sha256=sha256).feature_extractor()


def classifier(reference, sha256=""):
    """A classifier: images to logits. uint8 is normalised by it, floats are taken as they are."""
    from beit.errors import CheckpointError
    from beit.inference.predictor import load

    found = load(reference, sha256=sha256)
    if found.artifact.kind != "classifier":
        raise CheckpointError(
            f"{reference} holds a {found.artifact.kind}, not a classifier",
            remedy="name the run of `beit finetune`, or use the entry `beit` or `tokenizer`",
        )
    return found.model


def tokenizer(reference):
    """A frozen visual tokenizer: `encode` gives the ids of images, `decode` images of ids."""
    from beit.weights.load import open_tokenizer

    return open_tokenizer(reference, may_import=False)
