"""Downloads from an address: whole and right under their name, or not there at all."""

from __future__ import annotations

import hashlib
import json
import logging
import resource
import sys
import threading

import pytest

import beit.weights.download as downloading
import beit.weights.fetch as fetching
from beit.errors import CheckpointError, ConfigError, ResourceError
from beit.weights.download import check_address
from beit.weights.fetch import fetch
from beit.weights.published import PUBLISHED, Published
from servers import Shelf, serving

CONTENT = bytes(range(256)) * 1200  # several reads long
OTHER = CONTENT[::-1]


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


RIGHT = sha(CONTENT)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BEIT_HOME", str(tmp_path))
    return tmp_path / "downloads"


@pytest.fixture
def shelf(cache, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(Shelf, content=CONTENT, etag='"one"', moods=[]) as server:
        server.file = f"{server.url}/files/weights.pth"
        yield server


@pytest.fixture
def get(shelf, cache, monkeypatch):
    """Fetch the file of the shelf into the test's folder, quickly."""
    monkeypatch.setattr(downloading, "PAUSE", 0.001)

    def get(url=shelf.file, *, sha256=RIGHT):
        return fetch(url, sha256=sha256)

    return get


def ranges(shelf) -> list[str | None]:
    return [wanted for _, wanted in shelf.requests]


def kept(folder) -> list[str]:
    """The files under their final names."""
    return [p.name for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]


def test_a_whole_download_once(get, shelf, tmp_path, caplog):
    found = get()
    assert found.path.read_bytes() == CONTENT
    assert found.path.name == "weights.pth"
    assert (found.reference, found.sha256) == (shelf.file, RIGHT)
    assert get() == found
    assert len(shelf.requests) == 1
    assert kept(tmp_path) == ["weights.pth"]
    assert not list(tmp_path.rglob("*.part"))
    assert not caplog.text


def test_the_hash_may_stand_in_the_address(shelf, cache):
    path = fetch(f"{shelf.file}#sha256={RIGHT.upper()}").path
    assert path.is_relative_to(cache)


def test_files_of_one_folder_stay_together(get, shelf):
    encoder, decoder = get(f"{shelf.url}/a/encoder").path, get(f"{shelf.url}/a/decoder").path
    assert encoder.parent == decoder.parent
    assert get(f"{shelf.url}/b/encoder").path.parent != encoder.parent
    assert get(f"{shelf.url}/a/encoder?version=2").path.parent != encoder.parent


def test_odd_names_are_kept_apart(get, shelf, cache):
    urls = [f"{shelf.url}/{name}" for name in ("a b", "a%20b", "a_b", "ü", "", ".json", "x" * 200)]
    paths = {get(url).path for url in urls}
    assert len(paths) == len(urls) - 1  # a blank is written %20
    assert all(path.parents[1] == cache for path in paths)


def test_going_on_after_a_cut(get, shelf):
    shelf.moods = ["cuts", "cuts"]
    assert get().path.read_bytes() == CONTENT
    half = len(CONTENT) // 2
    assert ranges(shelf) == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]


def test_going_on_in_a_later_run(get, shelf, tmp_path):
    shelf.moods = ["cuts", "500", "500", "500"]
    half = len(CONTENT) // 2
    with pytest.raises(ResourceError, match=rf"500 [\s\S]*continues after the {half} bytes"):
        get()
    assert not kept(tmp_path)
    assert get().path.read_bytes() == CONTENT
    assert ranges(shelf)[-1] == f"bytes={half}-"


def test_a_server_without_ranges(get, shelf):
    shelf.moods = ["cuts", "knows no ranges"]
    assert get().path.read_bytes() == CONTENT


@pytest.mark.parametrize("mood", ["well", "minds no condition"])
def test_another_file_since_the_cut(get, shelf, mood):
    shelf.moods = ["cuts", "500", "500", "500"]
    with pytest.raises(ResourceError):
        get()
    shelf.content, shelf.etag, shelf.moods = OTHER, '"two"', [mood]
    assert get(sha256=sha(OTHER)).path.read_bytes() == OTHER


def test_another_file_without_an_etag(get, shelf):
    shelf.moods = ["cuts", "500", "500", "500"]
    with pytest.raises(ResourceError):
        get()
    shelf.content, shelf.etag, shelf.moods = OTHER, "", ["cuts"]
    assert get(sha256=sha(OTHER)).path.read_bytes() == OTHER
    assert ranges(shelf)[-1] is None


def test_a_server_that_goes_on_elsewhere(get, shelf):
    shelf.moods = ["cuts", "goes on elsewhere"]
    assert get().path.read_bytes() == CONTENT
    assert ranges(shelf)[-1] is None


@pytest.mark.parametrize("etag", ['W/"one"', ""])
def test_without_a_strong_etag_it_starts_again(get, shelf, etag):
    shelf.etag, shelf.moods = etag, ["cuts"]
    assert get().path.read_bytes() == CONTENT
    assert ranges(shelf) == [None, None]


def test_a_run_that_died_before_the_last_step(get, shelf):
    path = get().path
    path.rename(path.with_name(".weights.pth.part"))
    assert get().path.read_bytes() == CONTENT
    assert ranges(shelf)[1:] == [f"bytes={len(CONTENT)}-"]


def test_a_part_longer_than_the_file(get, shelf):
    path = get().path
    path.with_name(".weights.pth.part").write_bytes(CONTENT + b"more")
    path.unlink()
    assert get().path.read_bytes() == CONTENT
    assert len(shelf.requests) == 3


def test_the_wrong_file(get, shelf, tmp_path):
    with pytest.raises(CheckpointError, match=f"SHA-256 {RIGHT}, and should have {'0' * 64}"):
        get(sha256="0" * 64)
    assert not kept(tmp_path)
    assert get().path.read_bytes() == CONTENT
    assert ranges(shelf) == [None, None]


def test_a_file_damaged_in_the_cache_is_fetched_again(get, shelf):
    path = get().path
    path.write_bytes(CONTENT[:-1] + b"x")
    assert get().path.read_bytes() == CONTENT
    assert len(shelf.requests) == 2


@pytest.mark.parametrize(
    ("mood", "problem"),
    [
        ("404", "cannot be downloaded: the server answers 404 Not Found"),
        ("403", "403 Forbidden"),
        ("409", "409 Conflict"),
        ("web page", "answers with a web page"),
        ("endless", "does not say how long the file is"),
        ("http://example.org/x", "example.org/x is refused: without https"),
    ],
)
def test_answers_that_no_other_attempt_changes(get, shelf, tmp_path, mood, problem):
    shelf.moods = [mood] * 9
    with pytest.raises(CheckpointError, match=problem) as caught:
        get(f"{shelf.file}?secret=1")
    assert caught.value.remedy
    assert "secret" not in str(caught.value)
    assert len(shelf.requests) == 1
    assert not kept(tmp_path)


def test_a_server_that_recovers(get, shelf):
    shelf.moods = ["500", "503", "429"]
    assert get().path.read_bytes() == CONTENT
    assert len(shelf.requests) == 4


def test_a_server_that_hangs(get, shelf, monkeypatch):
    monkeypatch.setattr(downloading, "TIMEOUT", 0.2)
    shelf.moods = ["hangs"] * 9
    with pytest.raises(ResourceError, match=r"in 4 attempts: .*timed out"):
        get()
    assert len(shelf.requests) == 4


def test_waiting_longer_each_time(shelf, tmp_path, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr(downloading.time, "sleep", pauses.append)
    shelf.moods = ["500"] * 9
    with pytest.raises(ResourceError, match="in 4 attempts: the server answers 500"):
        fetch(shelf.file, sha256="record")
    assert pauses == [1, 2, 4]


def test_no_server(get):
    with pytest.raises(ResourceError, match="Connection refused"):
        get("http://127.0.0.1:9/weights.pth")


def test_a_body_in_pieces(get, shelf):
    shelf.moods = ["in pieces"]
    assert get().path.read_bytes() == CONTENT


def test_redirects_are_followed_a_few_times(get, shelf):
    shelf.moods = [f"{shelf.url}/{step}" for step in range(4)]
    assert get().path.name == "weights.pth"
    assert shelf.requests[-1][0] == "/3"
    shelf.moods = [f"{shelf.url}/{step}" for step in range(9)]
    with pytest.raises(CheckpointError, match=r"302 .* infinite loop"):
        get(f"{shelf.url}/other")
    assert shelf.requests[-1][0] == "/4"


@pytest.mark.parametrize(
    "url", ["http://example.org/weights.pth", "http://localhost.example.org/weights.pth"]
)
def test_plain_http_is_for_this_machine_only(get, url):
    with pytest.raises(CheckpointError, match=f"{url} is refused: without https"):
        get(url)


@pytest.mark.parametrize("url", ["https://", "https:///weights.pth", "https://[1/weights.pth"])
def test_addresses_that_are_none(get, url):
    with pytest.raises(CheckpointError, match="is not an address"):
        get(url)


def test_a_remote_server_cannot_send_us_to_this_machine():
    check_address("http://localhost/x")
    for url, local in (("http://localhost/x", False), ("ftp://localhost/x", True)):
        with pytest.raises(CheckpointError, match="is refused"):
            check_address(url, local=local)


def test_two_at_once(get, shelf):
    shelf.moods = ["slow"]
    found = []
    threads = [threading.Thread(target=lambda: found.append(get())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert found[0].path.read_bytes() == CONTENT
    assert len(shelf.requests) == 1


def test_a_full_disk(get, shelf, tmp_path):
    """The limit on the size of a file stands in for it: both fail in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ResourceError, match=r"cannot be fetched: .*File too large[\s\S]*kept"):
            get()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not kept(tmp_path)
    assert get().path.read_bytes() == CONTENT
    assert ranges(shelf) == [None, "bytes=100000-"]


def test_a_folder_that_cannot_be_written(shelf, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BEIT_HOME", str(tmp_path / "file"))
    with pytest.raises(ResourceError, match=r"cannot be fetched: .*Not a directory"):
        fetch(shelf.file, sha256="record")


def test_an_address_without_a_hash_is_refused(get, shelf):
    with pytest.raises(CheckpointError, match="its SHA-256 is not known") as caught:
        get(sha256="")
    assert "#sha256=" in caught.value.remedy
    assert "sha256='record'" in caught.value.remedy
    assert not shelf.requests


def test_a_recorded_hash_holds_later_downloads(get, shelf, caplog):
    with caplog.at_level(logging.WARNING, "beit"):
        path = get(sha256="record").path
    assert RIGHT in caplog.text
    assert json.loads(path.with_name(".weights.pth.json").read_text()) == {
        "url": shelf.file,
        "sha256": RIGHT,
    }
    caplog.clear()
    assert get(sha256="").path == path
    assert get(sha256="record").path == path
    assert not caplog.text
    path.unlink()
    assert get(sha256="").path == path
    path.unlink()
    shelf.content, shelf.etag = OTHER, '"two"'
    for sha256 in ("", "record"):
        with pytest.raises(CheckpointError, match=f"and should have {RIGHT}"):
            get(sha256=sha256)
    assert get(sha256=sha(OTHER)).path == path  # who knows better may say so
    assert get(sha256="").sha256 == sha(OTHER)


@pytest.mark.parametrize("content", ["", "[]", "{}", "{"])
def test_a_damaged_record(get, content):
    record = get().path.with_name(".weights.pth.json")
    record.write_text(content)
    with pytest.raises(CheckpointError, match=r"is damaged[\s\S]*delete that file"):
        get(sha256="")


@pytest.mark.parametrize("fragment", ["sha256=12", "md5=" + "0" * 64, "sha256=" + "0" * 64, "top"])
def test_fragments_that_are_no_hash_or_another(get, shelf, fragment):
    with pytest.raises(ConfigError, match="is not a SHA-256, or not the one"):
        get(f"{shelf.file}#{fragment}")
    assert not shelf.requests


def test_published_hashes_are_known(get, shelf, monkeypatch, caplog):
    known = next(file for file in PUBLISHED if file.sha256)
    with pytest.raises(CheckpointError, match=f"and should have {known.sha256}"):
        get(f"{shelf.url}/{known.name}", sha256="record")
    right = Published(name=known.name, family="dall-e", kind="tokenizer", sha256=RIGHT)
    monkeypatch.setattr(fetching, "recognise_name", lambda name: right)
    assert get(f"{shelf.url}/{known.name}", sha256="").sha256 == RIGHT


def test_what_a_published_name_says_of_the_hash_is_checked(get, shelf):
    name = next(file.name for file in PUBLISHED if file.hash_start and not file.sha256)
    with pytest.raises(CheckpointError, match="its SHA-256 is not known"):
        get(f"{shelf.url}/{name}", sha256="")
    with pytest.raises(CheckpointError, match=r"and should have [0-9a-f]{8}\n"):
        get(f"{shelf.url}/{name}", sha256="record")


def test_a_progress_bar_only_where_somebody_watches(get, shelf, capsys, monkeypatch):
    get()
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    get(f"{shelf.url}/other")
    assert "fetching" in capsys.readouterr().err
