"""Shapes and types are checked while testing; threads are shared out among the workers."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jaxtyping
import numpy as np
import pytest
from PIL import Image

CHECKED = ["masking", "models", "tokenizers", "objectives", "evaluation", "report"]
jaxtyping.install_import_hook([f"beit.{name}" for name in CHECKED], "beartype.beartype")

import torch  # noqa: E402

GOLDEN = Path(__file__).parent / "golden"

torch.set_num_threads(1)  # the models are tiny, and threads of several workers would fight

# Autograd starts a thread for each device with the first backward pass; a forked child cannot go
# backward after that. Exports and fake tensors pretend that there is a GPU: so here, before them.
torch.zeros(1, requires_grad=True).sum().backward()

# A shell that starts the tests in the background, or nohup, lets them ignore these, and with them
# their children.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_finish() -> None:
    """What is imported by now stays: the collector of garbage need not look through it again and
    again; nor do the processes that are forked copy it."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # libraries complain of what is left at the end


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """For other processes: the same package, one thread."""
    import beit

    return os.environ | {"PYTHONPATH": str(Path(beit.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Weights and images are the same in every run."""
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():  # else torch would note who asked, line by line
        torch.cuda.manual_seed_all(0)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """Read a file of facts measured from the reference: `golden("mim_shared_rel")`."""
    return lambda name: torch.load(GOLDEN / f"{name}.pt", weights_only=True)


SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": lambda x, y: x**2 + y**2 < 0.4,
    "stripes": lambda x, y: np.sin(8 * x) > 0,
    "tiles": lambda x, y: np.sin(5 * x) * np.sin(5 * y) > 0,
}


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of twelve images, 40 x 48 pixels: a moved shape in one colour on another."""
    root = tmp_path_factory.mktemp("images")
    chance = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:40j, -1:1:48j]
    for name, shape in SHAPES.items():
        (root / name).mkdir()
        for number in range(12):
            move_x, move_y = chance.uniform(-0.4, 0.4, 2)
            front, back = chance.uniform(0, 235, (2, 3))
            inside = shape(x + move_x, y + move_y)[..., None]
            light = 20 * (y[..., None] + 1) / 2
            pixels = np.where(inside, front, back) + light
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number:02}.png")
    return root


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a user that a container is run for, and that no file of it knows."""

    def unknown(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    for name in ("HOME", "BEIT_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """An export traces sizes that are symbols, which the checks of shapes take for no numbers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def writable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A hub that the real client talks to, logged in as its owner."""
    from servers import TOKEN, writable_hub

    with writable_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        # Its own protocol for large files needs servers of its own; the hub takes git LFS as well.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield server


class Trained(NamedTuple):
    """Folders of three runs of a few steps, each made with the one before."""

    tokenizer: Path
    pretrained: Path
    classifier: Path


@pytest.fixture(scope="session")
def trained(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    import beit

    root = tmp_path_factory.mktemp("runs")
    folders = Trained(*(root / name for name in Trained._fields))
    options: dict[str, Any] = {
        "data": str(class_folders), "workers": 0, "quiet": True, "report": False, "device": "cpu",
        "precision": "fp32",
    }  # fmt: skip
    beit.tokenizer("tiny", out=str(folders.tokenizer), steps=8, **options)
    options["steps"] = 4
    beit.pretrain(
        "tiny",
        out=str(folders.pretrained),
        tokenizer=str(folders.tokenizer),
        accept_collapsed=True,
        **options,
    )
    beit.finetune("tiny", out=str(folders.classifier), init=str(folders.pretrained), **options)
    return folders
