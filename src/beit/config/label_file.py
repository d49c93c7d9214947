"""How a label file is read, where its headings do not say it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from beit.config.validation import Config, require

LabelSeparator = Literal["auto", "none", "space", "comma", "semicolon", "pipe"]
NO_COLUMN = "none"


@dataclass(frozen=True, kw_only=True)
class LabelFileConfig(Config):
    """Which columns of a label file are read. A column is named by its heading or, where there are
    no headings, by its number, counted from 1. Empty: found by the headings."""

    image_column: str = ""
    """Column of a label file that names the images."""
    label_column: str = ""
    """Column of a label file that holds the labels; several, separated by commas, each hold 0 or 1
    for one class."""
    split_column: str = ""
    """Column of a label file that says train, val or test; `none` reads none."""
    validation_fold: str = ""
    """Value of the split column that stands for validation, where it holds numbers of folds."""
    test_fold: str = ""
    """Value of the split column that stands for test, where it holds numbers of folds."""
    label_separator: LabelSeparator = "auto"
    """What stands between several labels in one cell of a label file; `none`: a cell is one label;
    `auto`: told by the heading (`tags`, `labels`) and the cells."""
    image_folder: str = ""
    """Folder that the names in a label file count from; empty: that of the label file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        folds = bool(self.validation_fold or self.test_fold)
        require(
            not (folds and self.split_column == NO_COLUMN),
            "a fold was named, and split_column is none",
            "name the column of the folds with --split-column, or leave the folds out",
        )
        require(
            not folds or self.validation_fold != self.test_fold,
            f"validation_fold and test_fold are both {self.test_fold}",
            "use different folds",
        )

    @property
    def given(self) -> tuple[str, ...]:
        """The options that were given."""
        return tuple(item.name for item in fields(self) if getattr(self, item.name) != item.default)


BY_HEADINGS = LabelFileConfig()
"""Without options."""
