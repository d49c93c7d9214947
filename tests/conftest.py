"""Shapes and types are checked while testing; threads are shared out among the workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import pytest

CHECKED = ["masking", "models", "tokenizers", "objectives", "evaluation"]
jaxtyping.install_import_hook([f"beit.{name}" for name in CHECKED], "beartype.beartype")

import torch  # noqa: E402

GOLDEN = Path(__file__).parent / "golden"

torch.set_num_threads(1)  # the models are tiny, and threads of several workers would fight


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Weights and pictures are the same in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """Read a file of facts measured from the reference: `golden("mim_shared_rel")`."""
    return lambda name: torch.load(GOLDEN / f"{name}.pt", weights_only=True)
