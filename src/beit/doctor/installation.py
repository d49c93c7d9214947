"""Which versions are installed, and which this package can work with."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata
from io import BytesIO

import numpy as np
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from PIL import Image

from beit.data.decode import decode
from beit.data.file_types import FORMATS
from beit.data.pixel_types import UnreadableError
from beit.doctor.finding import Finding, Level

PACKAGE = "beit"
FARTHEST = 12
"""Of 255: how far the colours of a plain image may move in a lossy format."""


def _state(requirement: Requirement) -> tuple[str, bool, bool]:
    """The installed version (empty: none), whether it is there, whether it is in range."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return "", False, False
    return version, True, requirement.specifier.contains(version, prereleases=True)


def _requirements() -> list[Requirement]:
    return [Requirement(line) for line in metadata.requires(PACKAGE) or []]


def check_versions() -> Iterator[Finding]:
    """Python, this package, and everything it cannot do without."""
    python, wanted = platform.python_version(), metadata.metadata(PACKAGE)["Requires-Python"]
    fits = SpecifierSet(wanted).contains(python, prereleases=True)
    yield Finding(
        "ok" if fits else "fail",
        "Python",
        f"{python} on {platform.system()} {platform.machine()}; supported: {wanted}",
        "" if fits else f"make an environment with a Python {wanted}",
    )
    yield Finding("ok", PACKAGE, metadata.version(PACKAGE))
    for requirement in _requirements():
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue  # of an extra, or of another system
        version, there, fits = _state(requirement)
        found = f"{version or 'not installed'}; supported: {requirement.specifier}"
        change = f'pip install "{requirement.name}{requirement.specifier}"'
        yield Finding(
            "ok" if fits else "fail", requirement.name, found, "" if there and fits else change
        )


def check_extras() -> Iterator[Finding]:
    """The optional parts: all there, not asked for, or in an unsupported version."""
    for extra in sorted(metadata.metadata(PACKAGE).get_all("Provides-Extra") or []):
        needed = [
            one for one in _requirements() if one.marker and one.marker.evaluate({"extra": extra})
            and not one.marker.evaluate({"extra": ""})
        ]  # fmt: skip
        states = {one.name: _state(one) for one in needed}
        missing = [name for name, (_, there, _) in states.items() if not there]
        unfit = [name for name, (_, there, fits) in states.items() if there and not fits]
        there = ", ".join(f"{name} {version}" for name, (version, *_) in states.items() if version)
        words = [there] if there else []
        words += [f"not installed: {', '.join(missing)}"] if missing else []
        words += [f"not in a supported version: {', '.join(unfit)}"] if unfit else []
        level: Level = "warn" if unfit else "ok"
        change = f'if you need it: pip install "{PACKAGE}[{extra}]"'
        yield Finding(level, f"extra {extra}", "; ".join(words), change if missing or unfit else "")


def check_decoder() -> Iterator[Finding]:
    """An image of every format is written and read back by the decoder that runs use."""
    image = np.zeros((24, 32, 3), np.uint8)
    image[:12], image[12:] = (200, 60, 40), (30, 90, 160)
    faults = []
    for name in FORMATS:
        buffer = BytesIO()
        try:
            Image.fromarray(image).save(buffer, name)
            read = decode(buffer.getvalue(), channels=3)
        except (UnreadableError, OSError, KeyError, ImportError) as error:
            faults.append(f"{name}: {error}")
            continue
        middle = np.abs(read[4:8].astype(int) - image[4:8]).max() if read.shape == image.shape \
            else 255  # fmt: skip
        if middle > FARTHEST:
            faults.append(f"{name}: other pixels came back than were written")
    yield Finding(
        "fail" if faults else "ok",
        "decoder",
        "; ".join(faults)
        or f"{', '.join(FORMATS)} are read (simplejpeg "
        f"{metadata.version('simplejpeg')}, Pillow {metadata.version('pillow')})",
        "pip install --force-reinstall simplejpeg pillow" if faults else "",
    )
