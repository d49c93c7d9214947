"""What is published: a wheel with its types, and a small sdist whose own tests pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import beit
from hatch_build import for_index

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", place], cwd=ROOT, check=True)
    return place


def test_the_wheel_has_types_templates_and_data(built):
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"beit-{beit.__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "src").rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert str(path.relative_to(ROOT / "src")) in names
    assert "beit/py.typed" in names


REPOSITORY = "https://github.com/owner/name"


@pytest.mark.parametrize("repository", [None, REPOSITORY])
def test_links_of_the_readme_lead_somewhere_on_a_package_index(built, repository):
    (wheel,) = built.glob("*.whl")
    described = zipfile.ZipFile(wheel).read(f"beit-{beit.__version__}.dist-info/METADATA").decode()
    readme = (ROOT / "README.md").read_text()
    shown = for_index(readme, repository)
    assert described.endswith(for_index(readme, None))
    assert "(https://arxiv.org/abs/2106.08254)" in shown
    linked = re.findall(r"\]\(([^)]*)\)", shown)
    assert all(link.startswith("https://") for link in linked)
    assert (f"{REPOSITORY}/raw/HEAD/docs/image.png" in linked) == bool(repository)
    assert (f"{REPOSITORY}/blob/HEAD/docs/start.md" in linked) == bool(repository)
    assert "[start]" not in shown or repository


@pytest.mark.slow
def test_the_sdist_is_small_and_passes_its_own_tests(built, tmp_path):
    (sdist,) = built.glob("*.tar.gz")
    assert sdist.stat().st_size < 2_000_000
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder, env=os.environ | {"PYTHONPATH": "src"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert " passed" in done.stdout


def test_the_version_is_the_same_everywhere():
    assert f"version: {beit.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {beit.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()
