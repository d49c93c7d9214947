"""Images and folders that may not be read are told, never waited for or passed over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from beit.config.data import LoaderConfig, ViewConfig
from beit.data.dataset import open_source
from beit.data.loader import evaluate_batches
from beit.data.transforms import SingleView
from beit.errors import DataError
from children import become_nobody, in_a_child

Draw = Callable[..., Path]


def test_a_file_that_may_not_be_read_is_told(draw: Draw) -> None:
    root = draw("1.png", "2.png", "3.png")
    (root / "2.png").chmod(0)

    def read() -> None:
        become_nobody(root)
        (batch,) = evaluate_batches(
            open_source(str(root)),
            SingleView(config=ViewConfig(), size=(8, 8)),
            channels=3,
            batch=8,
            config=LoaderConfig(workers=0),
        )
        assert batch.keys == ("1.png", "3.png")
        assert batch.unreadable == (("2.png", "Permission denied"),)

    assert in_a_child(read) == 0


def test_a_folder_that_may_not_be_listed_is_refused(draw: Draw) -> None:
    root = draw("a/1.png", "b/1.png")
    (root / "b").chmod(0)

    def look() -> None:
        become_nobody(root)
        with pytest.raises(DataError, match=r"/b cannot be listed: Permission denied"):
            open_source(str(root))

    try:
        assert in_a_child(look) == 0
    finally:
        (root / "b").chmod(0o755)
