"""How data are read where they do not say it themselves, whatever form they come in."""

from __future__ import annotations

from typing import NamedTuple

from beit.config.data import FolderConfig
from beit.config.label_file import BY_HEADINGS, LabelFileConfig


class Reading(NamedTuple):
    """What settles data that can be read in several ways: passed down from a verb to what opens
    them."""

    folders: FolderConfig = FolderConfig()
    label_file: LabelFileConfig = BY_HEADINGS


AS_RECOGNISED = Reading()
"""Without options."""
