"""A place belongs to one process; files that are replaced are whole, whoever writes them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from beit.atomic_io import NO_LOCKS, beside, replace_file
from beit.claim import claim_folder, claim_output
from beit.cli import main
from beit.errors import ConfigError, ResourceError, RunFolderError
from children import become_nobody, in_a_child
from disks import NotAllowedError, mount, own_mounts

NOT_ALLOWED = 77


def test_of_many_processes_one_writes_and_its_result_stays(tmp_path: Path) -> None:
    """The others are refused, whenever they come."""
    out = tmp_path / "deep" / "result.txt"
    go, wait = os.pipe()
    children = []
    for number in range(8):
        child = os.fork()
        if child == 0:
            code = 2
            try:
                os.close(wait)
                os.read(go, 1)  # ends for all of them at once
                with claim_output(out) as place:
                    place.write_text(str(number))
                code = 0
            except RunFolderError:
                code = 1
            finally:
                os._exit(code)
        children.append(child)
    os.close(go)
    os.close(wait)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(codes) == [0, *[1] * 7]
    assert out.read_text() == str(codes.index(0))
    assert [path.name for path in out.parent.iterdir()] == ["result.txt"]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with claim_output(tmp_path / "a" / "b" / "c") as place:
            place.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not list(tmp_path.iterdir())


def test_folders_take_the_place_of_empty_ones_only(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with claim_output(tmp_path / "empty", folder=True) as place:
        place.mkdir()
        (place / "file").touch()
    assert (tmp_path / "empty" / "file").exists()
    for folder in (True, False):
        with pytest.raises(RunFolderError), claim_output(tmp_path / "empty", folder=folder):
            pytest.fail("it is taken")
    mounted = Path("/proc")
    with pytest.raises(RunFolderError), claim_output(mounted, folder=True):
        pytest.fail("it is taken")


def test_what_comes_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    def write() -> None:
        with claim_output(tmp_path / "x") as place:
            place.write_text("ours")
            (tmp_path / "x").write_text("theirs")

    with pytest.raises(RunFolderError, match="nothing is overwritten"):
        write()
    assert (tmp_path / "x").read_text() == "theirs"


def test_a_file_is_replaced_on_request(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with claim_output(tmp_path / "x", replaces=True) as place:
        place.write_text("new")
        assert (tmp_path / "x").read_text() == "old"
    assert (tmp_path / "x").read_text() == "new"


def test_names_of_every_length(tmp_path: Path) -> None:
    for length in (200, 245, 255):
        out = tmp_path / ("y" * (length - 4) + ".npz")
        with claim_output(out) as place:
            assert place.suffix == ".npz"
            place.touch()
        replace_file(out, [b"again"])
        assert out.read_bytes() == b"again"
    with pytest.raises(ConfigError, match="256 bytes"), claim_output(tmp_path / ("y" * 256)):
        pytest.fail("there is no such place")
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("name", ["one/x", "one/../one/x", "link/x"])
def test_a_place_by_its_other_names(tmp_path: Path, name: str) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "link").symlink_to("one")
    with claim_output(tmp_path / "one" / "x") as place:
        with pytest.raises(RunFolderError, match="in use"), claim_output(tmp_path / name):
            pytest.fail("it is taken")
        place.touch()


def test_the_place_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Path("mine").touch()
    for name in (".", "..", "/"):
        with pytest.raises(RunFolderError), claim_output(Path(name), folder=True):
            pytest.fail("it is taken")
    assert [path.name for path in tmp_path.rglob("*")] == ["work", "mine"]


def test_an_error_about_something_else_is_not_taken_for_one_about_the_place(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), claim_output(tmp_path / "x"):
        (tmp_path / "input").read_bytes()
    told = "x cannot be written to: No such file or directory"
    for write in (Path.touch, lambda below: save_file({"a": torch.zeros(1)}, below)):
        with (
            pytest.raises(ResourceError, match=told),
            claim_output(tmp_path / "x") as place,
        ):
            write(place / "below")


def test_a_full_folder_for_temporary_files_is_not_taken_for_the_place(tmp_path: Path) -> None:
    """As of a library that writes there on the way to a result, on a disk with room."""

    def fill(place: Path) -> None:
        place.write_bytes(b"half")
        with tempfile.TemporaryFile(buffering=0) as file:
            while file.write(bytes(2**12)):
                pass

    def refused() -> None:
        try:
            own_mounts()
            mount(tmp_path / "temporary", options="size=16k")
        except NotAllowedError:
            os._exit(NOT_ALLOWED)
        tempfile.tempdir = str(tmp_path / "temporary")
        told = r"temporary, where temporary files are written, has no room(.|\n)*TMPDIR"
        with pytest.raises(ResourceError, match=told), claim_output(tmp_path / "x") as place:
            fill(place)

    (tmp_path / "temporary").mkdir()
    code = in_a_child(refused)
    if code == NOT_ALLOWED:
        pytest.skip("no disk may be mounted here")
    assert code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]


def test_a_folder_that_may_not_be_written_is_not_taken_for_one_in_use(tmp_path: Path) -> None:
    def refused(folder: Path) -> None:
        become_nobody(tmp_path)
        for hold in (claim_output, claim_folder):
            with pytest.raises(ResourceError, match="Permission denied"), hold(folder / "x"):
                pytest.fail("it cannot be written to")
        with pytest.raises(ResourceError, match="Permission denied"), claim_folder(folder):
            pytest.fail("it cannot be written to")

    (tmp_path / "kept").mkdir(mode=0o555)
    assert in_a_child(lambda: refused(tmp_path / "kept")) == 0


def test_a_place_named_from_a_folder_that_is_gone(tmp_path: Path) -> None:
    def refused() -> None:
        (tmp_path / "gone").mkdir()
        os.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        with pytest.raises(ResourceError, match="started is gone"), claim_folder(Path("x")):
            pytest.fail("there is no such place")
        assert main(["embed", str(tmp_path), str(tmp_path), "--out", "x.npz"]) == 6

    assert in_a_child(refused) == 0


def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch, caplog) -> None:
    def unknown(*_: object) -> None:
        raise OSError(NO_LOCKS[0], "no locks")

    monkeypatch.setattr("fcntl.flock", unknown)
    with claim_output(tmp_path / "x") as place:
        place.write_text("written")
    replace_file(tmp_path / "x", [b"replaced"])
    assert "has no locks" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_file_that_many_replace_at_once_is_that_of_one(tmp_path: Path) -> None:
    """Each of them writes it in pieces, a hundred times."""
    file = tmp_path / "file"

    def write(number: int) -> None:
        for _ in range(100):
            replace_file(file, [bytes([number]) * 5000] * 4)

    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            os._exit(in_a_child(lambda number=number: write(number)))
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    content = file.read_bytes()
    assert len(content) == 20000
    assert len(set(content)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_hidden_names_keep_the_ending() -> None:
    assert beside(Path("a/b.npz"), "writing") == Path("a/.writing-b.npz")
    assert len(os.fsencode(beside(Path("é" * 127), "writing").name)) <= 255
