"""A run may go on with its images or its tokenizer at another place, if they are the same."""

from __future__ import annotations

from collections.abc import Mapping

from beit.config.runs import RunConfig
from beit.config.tree import differences
from beit.training.checkpoint import newest_checkpoint
from beit.training.dataset_manifest import Listing, check_unchanged
from beit.training.environment import check_same_parts
from beit.training.run_folder import PLACES, RunFolder, read_run_config


def check_moved(
    folder: RunFolder, config: RunConfig, listing: Listing, parts: Mapping[str, str]
) -> None:
    """Raise DataError if a run that goes on is told another place of its images, and others than
    those it has learned from lie there; and CheckpointError for another place of a frozen part,
    such as the tokenizer, where another one lies, known by its digest in `parts`.

    As at every start they are compared with the checkpoint again; here it is before the config is
    written that names the new place. A run without a checkpoint begins anew.
    """
    if not PLACES & differences(read_run_config(folder.path), config).keys():
        return
    found = newest_checkpoint(folder.checkpoints).checkpoint
    if found is None:
        return
    check_same_parts(found.values.get("parts", {}), parts)
    if not config.accept_changed_data:
        check_unchanged(folder.images, found.values.get("data") or "", listing)
