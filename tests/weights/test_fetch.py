"""References: what is here is used, hub ids go to the hub, and the hub's troubles are told."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars

import beit.weights.fetch as fetching
from beit.atomic_io import cache_dir
from beit.errors import CheckpointError, ConfigError, ResourceError
from beit.weights.fetch import Fetched, fetch
from servers import COMMIT, Hub, serving

WEIGHTS = b"tensors" * 100
REPOSITORIES = {
    "org/name": {
        "README.md": b"read me",
        "config.json": b"{}",
        "model.safetensors": WEIGHTS,
        "pytorch_model.bin": b"a pickle",
        "sub/model.safetensors": WEIGHTS[1:],
    },
    "org/old": {
        "preprocessor_config.json": b"{}",
        "processor_config.json": b"{}",
        "pytorch_model.bin": b"a pickle",
        "x.msgpack": b"",
    },
    "org/bare": {"README.md": b"read me", "config.json": b"{}"},
    "timm/tiny": {"config.json": b"{}", "model.safetensors": WEIGHTS},
}


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that the real client talks to, and an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with serving(Hub, repositories=REPOSITORIES) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(WEIGHTS)
    return path


def test_what_is_here_is_used(file, monkeypatch):
    assert fetch(file) == Fetched(file, "weights.pth", "")
    assert fetch(str(file), sha256=sha(WEIGHTS).upper()).path == file
    assert fetch(file.parent).path == file.parent
    monkeypatch.setenv("HOME", str(file.parent))
    assert fetch("~/weights.pth").path == file
    (file.parent / "timm").mkdir()
    monkeypatch.chdir(file.parent)
    file.rename(file.parent / "timm" / "tiny")
    assert fetch("timm/tiny").path == Path("timm/tiny")


def test_a_wrong_hash_of_what_is_here(file):
    with pytest.raises(CheckpointError, match=f"has the SHA-256 {sha(WEIGHTS)}, not 0000"):
        fetch(file, sha256="0" * 64)


@pytest.mark.parametrize("sha256", ["abc", "0" * 63 + "g", "0" * 65])
def test_hashes_that_are_none(file, sha256):
    with pytest.raises(ConfigError, match="is not a SHA-256"):
        fetch(file, sha256=sha256)


def test_hashes_that_do_not_apply(file):
    with pytest.raises(ConfigError, match="'record' is for addresses"):
        fetch(file, sha256="record")
    with pytest.raises(ConfigError, match="the hash of one file"):
        fetch(file.parent, sha256="0" * 64)


@pytest.mark.parametrize(
    "reference", ["missing.pth", "org/name", "ftp://host/x", "", "/a:b", "~no-such-user/x"]
)
def test_nothing_there(reference, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"no file or folder .* not a hub id or an address"):
        fetch(reference)


def test_unreadable_names_are_told():
    with pytest.raises(ResourceError, match=r"cannot be fetched: .*too long"):
        fetch("x" * 5000)


def test_home_is_asked_for_when_it_is_needed(monkeypatch, tmp_path):
    monkeypatch.setenv("BEIT_HOME", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("BEIT_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "beit"


def test_a_user_without_a_home_has_to_name_a_folder_for_downloads(homeless):
    with pytest.raises(ConfigError, match=r"no home folder is known[\s\S]*BEIT_HOME"):
        cache_dir()


def test_a_repository_without_its_pickles(hub, tmp_path):
    enable_progress_bars()  # which another library may have switched off
    found = fetch("hf:org/name")
    assert found.path.name == COMMIT
    assert (found.reference, found.sha256) == ("hf:org/name", "")
    assert names(found.path) == ["config.json", "model.safetensors", "sub/model.safetensors"]
    assert (found.path / "model.safetensors").read_bytes() == WEIGHTS
    assert not are_progress_bars_disabled()  # nor changed for others


def test_pickles_where_there_is_nothing_else(hub, tmp_path):
    folder = fetch("hf:org/old").path
    assert names(folder) == [
        "preprocessor_config.json", "processor_config.json", "pytorch_model.bin",
    ]  # fmt: skip


def test_the_second_time_comes_from_the_cache(hub, tmp_path):
    first = fetch("hf:org/name@main")
    hub.requests.clear()
    assert fetch("hf:org/name@main") == first
    assert not [path for _, path in hub.requests if "resolve" in path]


def test_one_file(hub, tmp_path):
    found = fetch("hf:org/name/sub/model.safetensors@main")
    assert found.path.read_bytes() == WEIGHTS[1:]
    assert found.sha256 == sha(WEIGHTS[1:])
    assert names(found.path.parents[1]) == ["sub/model.safetensors"]
    with pytest.raises(CheckpointError, match="has the SHA-256"):
        fetch("hf:org/name/model.safetensors", sha256="0" * 64)


def test_timm_is_short_for_its_place_on_the_hub(hub, tmp_path):
    found = fetch("timm/tiny")
    assert found.reference == "timm/tiny"
    assert (found.path / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("hf:org/missing", "the hub has no hf:org/missing"),
        ("hf:org/missing/file.bin", "the hub has no"),
        ("hf:org/name/missing.bin", "the hub has no"),
        ("hf:org/name@v7", "the hub has no hf:org/name@v7"),
        ("hf:org/name/config.json@v7", "the hub has no"),
        ("hf:org/-name", "the hub has no"),
        ("hf:org/bare", "holds no weights"),
        ("hf:org/gated", "accept its terms"),
        ("hf:org/gated/file.bin", "accept its terms"),
        ("hf:name", "is not a hub id"),
        ("hf:org/name/../../file", "is not a hub id"),
        ("hf:org/name@../main", "is not a hub id"),
        ("timm/missing", "the hub has no hf:timm/missing"),
    ],
)
def test_what_the_hub_does_not_give(hub, tmp_path, reference, problem):
    with pytest.raises(CheckpointError, match=problem) as caught:
        fetch(reference)
    assert caught.value.remedy


def test_no_hub(hub, tmp_path, monkeypatch):
    kept = fetch("hf:org/name")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch("hf:org/name") == kept
    with pytest.raises(ResourceError, match=r"the hub was not reached: .*refused"):
        fetch("hf:org/old")


def test_a_file_that_comes_short(hub, tmp_path, monkeypatch):
    def cut(self, files, name):
        body = files[name] if self.command == "HEAD" else files[name][:-1]
        self.answer(200, body, ETag='"x"', X_Repo_Commit=COMMIT)

    monkeypatch.setattr(Hub, "resolve", cut)
    with pytest.raises(ResourceError, match=r"did not come from the hub: .*size 699"):
        fetch("hf:timm/tiny/model.safetensors")


def test_errors_of_the_http_library_are_told(monkeypatch, tmp_path):
    def lost(*args, **options):
        raise RuntimeError("peer closed connection\nsee the manual")

    monkeypatch.setattr(fetching, "snapshot_download", lost)
    with pytest.raises(
        ResourceError, match=r"not come from the hub: peer closed connection\n  rem"
    ):
        fetch("hf:org/name")


def test_offline_and_quiet(hub, tmp_path, environment):
    """What huggingface_hub reads when it is imported counts as well, so in other processes."""
    code = (
        "import sys; from beit.weights.fetch import fetch\n"
        "for reference in sys.argv[1:]: print(fetch(reference).path)"
    )

    def run(*references: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *references],
            capture_output=True,
            text=True,
            env=environment | os.environ | {"HF_HOME": str(tmp_path)} | extra,
        )

    online = run("hf:timm/tiny")
    folder = Path(online.stdout.strip())
    assert folder.is_relative_to(tmp_path)
    assert not online.stderr  # no progress bar where nobody watches
    hub.requests.clear()
    offline = run("hf:timm/tiny", "hf:org/name", HF_HUB_OFFLINE="1")
    assert offline.stdout == online.stdout
    assert "ResourceError: hf:org/name is not in the hub's cache" in offline.stderr
    assert "unset HF_HUB_OFFLINE" in offline.stderr
    assert not hub.requests
