"""Shards are the same data as the folder they were packed from, wherever they lie."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from tar_shards import NAMES, contents, tar

from beit.atomic_io import replace_file
from beit.config.data import Division, LoaderConfig, ViewConfig
from beit.data import shard_index
from beit.data.dataset import Dataset, open_source
from beit.data.labelled import divide
from beit.data.loader import Loader
from beit.data.pack import pack
from beit.data.sources import ImageSource
from beit.data.storage import expand, expand_braces
from beit.data.transforms import SingleView
from beit.errors import ConfigError, DataError, RunFolderError, UnreadableError

Draw = Callable[..., Path]


pytestmark = pytest.mark.usefixtures("own_home")


def test_packed_folder_is_the_same_data(draw: Draw, elsewhere: Path) -> None:
    root = draw(*NAMES)
    packed = pack(str(root), str(elsewhere / "out"))
    assert packed.images == 24
    assert packed.shards == 2
    out = packed.folder
    for part in ("train", "val"):
        folder, shards = open_source(str(root / part)), open_source(str(out / part))
        assert contents(folder) == contents(shards)
        assert folder.classes == shards.classes == ("9", "cat")
        assert (folder.targets == shards.targets).all()
    a, b = (
        divide(Dataset(str(where)), Division(split=0.5, seed=1, per_class=3))
        for where in (root, out)
    )
    assert [contents(part) for part in b[:2]] == [contents(part) for part in a[:2]]
    assert contents(open_source(str(out))) == contents(open_source(str(root)))
    assert Dataset(str(out)).part("valid")[0] == str(out / "val")
    assert set(Dataset(str(out)).splits()) == {"train", "val"}
    with pytest.raises(DataError, match="none called test"):
        Dataset(str(out)).part("test")


def test_flat_folder_trains_alike(draw: Draw, elsewhere: Path) -> None:
    root = draw(*[f"{number}.png" for number in range(9)])
    pack(str(root), str(elsewhere / "out"))
    batches = []
    for where in (root, elsewhere / "out"):
        loader = Loader(
            open_source(str(where)), SingleView(config=ViewConfig(), size=(16, 16)), channels=3,
            batch=4, micro_batch=4, seed=1, config=LoaderConfig(workers=0),
        )  # fmt: skip
        batches.append([(batch.keys, batch.images.tolist()) for batch in loader.batches(0, 4)])
    assert batches[0] == batches[1]


def test_packing_goes_on_where_it_stopped(
    draw: Draw, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beit.data.pack.MEGABYTE", 6000)
    names = [f"a/{number}.png" for number in range(8)] + [
        "b/x.y.png",
        "b/x_y.png",
        "b/x.jpg",
        "b/x.png",
    ]
    root = draw(*names)
    whole = pack(str(root), str(elsewhere / "whole"), shard_size=1).folder
    hidden = root / "a" / "6.png"
    hidden.rename(root / "6")
    (root / "a" / "6.png").symlink_to("nothing")
    source = open_source(str(whole))
    assert [record[2] for record in contents(source)][6] == (root / "6").read_bytes()
    (root / "a" / "6.png").unlink()
    (root / "6").rename(hidden)

    stopped = elsewhere / "stopped"
    written: list[Path] = []
    write = replace_file

    def stop_at_third(path: Path, content: list[bytes]) -> None:
        written.append(path)
        if path.name == "000002.tar.index":
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr("beit.data.pack.replace_file", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        pack(str(root), str(stopped), shard_size=1)
    assert sorted(one.name for one in stopped.glob("*.tar")) == ["000000.tar", "000001.tar"]
    assert not list(stopped.glob(".*"))
    with pytest.raises(DataError, match="stopped before its end"):
        open_source(str(stopped))
    monkeypatch.setattr("beit.data.pack.replace_file", write)
    before = (stopped / "000001.tar").stat().st_mtime_ns
    pack(str(root), str(stopped), shard_size=1)
    assert (stopped / "000001.tar").stat().st_mtime_ns == before
    files = sorted(path.name for path in whole.iterdir())
    assert len(files) >= 7
    assert sorted(path.name for path in stopped.iterdir()) == files
    assert all((stopped / name).read_bytes() == (whole / name).read_bytes() for name in files)
    with pytest.raises(RunFolderError, match="other images, or of another size"):
        pack(str(root), str(stopped), shard_size=2)
    draw("c/new.png")
    with pytest.raises(RunFolderError, match="other images"):
        pack(str(root), str(stopped), shard_size=1)
    assert [record[0] for record in contents(open_source(str(whole)))][8:] == [
        "b/x.jpg", "b/x-2.png", "b/x_y.png", "b/x_y-2.png",
    ]  # fmt: skip


def test_what_cannot_be_packed(draw: Draw, elsewhere: Path) -> None:
    root = draw("1.png", "2.png")
    (elsewhere / "file").write_text("x")
    for out, why in ((elsewhere, "not empty"), (elsewhere / "file", "is a file")):
        with pytest.raises(RunFolderError, match=why):
            pack(str(root), str(out))
    with pytest.raises(ConfigError, match="shard_size"):
        pack(str(root), str(elsewhere / "new"), shard_size=0)
    assert not (elsewhere / "new").exists()


def test_layout_of_webdataset(tmp_path: Path) -> None:
    place = tar(
        tmp_path / "x.tar",
        {
            "0001.json": b'{"caption": "a"}', "0001.cls": b"10\n",
            "0001.JPG": b"one", "0001.seg.png": b"mask",
            "a.dir/0002.png": b"two", "a.dir/0002.cls": b"2",
            "._0002.png": b"mac", "0003.webp": b"three", "0003.json": b'{"label": 2}',
            "0004.gif": b"four", "0004.json": b'{"class": "ten"}', "0004.cls": b"2",
            "é" * 120 + ".png": b"five", "é" * 120 + ".cls": b"2",
        },
    )  # fmt: skip
    source = open_source(place)
    assert [record[2] for record in contents(source)] == [
        b"one",
        b"two",
        b"three",
        b"four",
        b"five",
    ]
    assert source.key(1) == "a.dir/0002.png"
    assert source.classes == ("2", "10", "ten")
    assert source.targets is not None
    assert source.targets.tolist() == [1, 0, 0, 2, 0]
    assert [one.examples for one in source.account.skipped] == [("._0002.png",), ("0001.seg.png",)]
    assert contents(pickle.loads(pickle.dumps(source))) == contents(source)  # noqa: S301


def test_partly_labelled_shards(tmp_path: Path) -> None:
    place = tar(tmp_path / "x.tar", {"1.png": b"", "1.cls": b"a", "2.png": b"", "3.txt": b""})
    source = open_source(place)
    assert source.targets is None
    assert source.classes == ()
    assert "1 image without a label" in source.account.notes[0]
    with pytest.raises(
        DataError, match=r"for every image; 1 image .*; it holds besides 1 \.txt \(not an"
    ):
        divide(Dataset(place), Division(split=0.5, seed=0))


@pytest.mark.parametrize(
    ("name", "label", "told"),
    [
        ("1.cls", b"cat\ndog\n", r"several lines, 'cat\\ndog'"),
        ("1.cls", b"\xff", "'utf-8' codec can't decode"),
        ("1.json", b"cat", "Expecting value"),
        ("1.json", b'{"label": [0, 0, 1]}', "name one twice"),
    ],
)
def test_a_label_that_cannot_be_read_is_not_put_down_to_the_tar_file(
    name: str, label: bytes, told: str, tmp_path: Path
) -> None:
    place = tar(tmp_path / "x.tar", {"0.png": b"", "0.cls": b"a", "1.png": b"", name: label})
    with pytest.raises(
        DataError, match=rf"a label in .*x\.tar cannot be read: {name}: .*{told}"
    ) as met:
        open_source(place)
    assert "correct this file" in met.value.remedy


def test_parts_must_have_the_same_classes(tmp_path: Path) -> None:
    for part, label in (("train", b"b"), ("val", b"c")):
        (tmp_path / part).mkdir()
        tar(tmp_path / part / "0.tar", {"1.png": b"", "1.cls": b"a", "2.png": b"", "2.cls": label})
    with pytest.raises(DataError, match="lacks 'b' and has besides 'c'"):
        divide(Dataset(str(tmp_path)), Division(split=0.5, seed=0))


def test_names_that_come_in_several_shards(tmp_path: Path) -> None:
    for number in range(2):
        tar(tmp_path / f"{number}.tar", {"1.png": b"%d" % number, "2.png": b""})
    source = open_source(str(tmp_path))
    assert [source.key(index) for index in range(4)] == ["0/1.png", "0/2.png", "1/1.png", "1/2.png"]
    assert [source.read(index).data for index in (0, 2)] == [b"0", b"1"]
    tar(tmp_path / "1.tar", {"1.png": b"a", "1.png ": b"", "2.png": b""})
    twice = str(tmp_path / "{0,0}.tar")
    with pytest.raises(DataError, match="same name"):
        open_source(twice)


def test_index_is_built_once_and_again_when_the_shard_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    place = tar(tmp_path / "x.tar", {"1.png": b"one"})
    built: list[int] = []
    build = shard_index.build_index
    monkeypatch.setattr(shard_index, "build_index", lambda file: built.append(1) or build(file))
    first = open_source(place)
    assert contents(open_source(place)) == contents(first)
    assert len(built) == 1
    assert len(list((own_home / "shards").iterdir())) == 1
    (kept,) = (own_home / "shards").iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    open_source(place)
    assert len(built) == 2
    tar(tmp_path / "x.tar", {"0.png": b"two", "1.png": b"one"})
    os.utime(place, (1, 1))
    assert contents(open_source(place))[0] == ("0.png", None, b"two")
    assert len(built) == 3
    with pytest.raises(UnreadableError, match="changed since its index was made"):
        first.read(0)
    Path(place).write_bytes(b"")
    with pytest.raises(UnreadableError, match="0 bytes came instead of"):
        first.read(0)
    with pytest.raises(IndexError):
        first.read(1)


def test_home_that_cannot_be_written(
    tmp_path: Path, own_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (own_home / "shards").write_text("a file")
    assert len(open_source(tar(tmp_path / "x.tar", {"1.png": b"one"}))) == 1
    assert "cannot be kept" in caplog.text


def test_a_user_without_a_home(
    tmp_path: Path, homeless: None, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(open_source(tar(tmp_path / "x.tar", {"1.png": b"one"}))) == 1
    assert "is not kept: no home folder is known" in caplog.text


def damaged(data: bytes) -> dict[str, bytes]:
    import gzip

    return {
        "cut": data[: len(data) // 2 + 100],
        "in the header": data[:100],
        "flipped": data[:20] + b"\xff\xff" + data[22:],
        "compressed": gzip.compress(data),
        "rubbish": b"rubbish" * 300,
    }


@pytest.mark.parametrize("fault", ["cut", "in the header", "flipped", "compressed", "rubbish"])
def test_damaged_shards_are_refused(tmp_path: Path, fault: str) -> None:
    place = tmp_path / "x.tar"
    tar(place, {"1.png": bytes(3000), "2.png": bytes(3000)})
    place.write_bytes(damaged(place.read_bytes()[:8192])[fault])
    with pytest.raises(DataError, match=r"cannot be read as a tar file") as caught:
        open_source(str(place))
    assert caught.value.remedy


def test_shards_without_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images in 1 shard:"):
        open_source(tar(tmp_path / "x.tar", {"1.txt": b""}))


def test_archives_beside_images_are_left_alone(draw: Draw) -> None:
    root = draw("a/1.png")
    tar(root / "old.tar", {"2.png": b""})
    source = open_source(str(root))
    assert [source.key(index) for index in range(len(source))] == ["a/1.png"]


def test_braces() -> None:
    assert expand_braces("a{8..11}{x,}.tar") == [
        f"a{number}{mark}.tar" for number in (8, 9, 10, 11) for mark in ("x", "")
    ]
    assert expand_braces("{098..101}")[:3] == ["098", "099", "100"]
    assert expand_braces("{{1..2},z}") == ["1", "z", "2", "z"]
    with pytest.raises(ConfigError, match="not a range"):
        expand_braces("{3..1}")


def test_patterns(tmp_path: Path) -> None:
    for name in ("10", "9", "a", "[x]"):
        tar(tmp_path / f"{name}.tar", {f"{name}.png": b""})
    names = [Path(place).stem for place in expand(str(tmp_path / "*.tar"))]
    assert names == ["9", "10", "[x]", "a"]
    assert expand(str(tmp_path / "[x].tar")) == [str(tmp_path / "[x].tar")]
    assert len(open_source(str(tmp_path / "{9..10}.tar"))) == 2
    with pytest.raises(DataError, match=r"nothing is there for '.*11\.tar'"):
        open_source(str(tmp_path / "{9..11}.tar"))
    with pytest.raises(DataError, match="nothing is there"):
        open_source(str(tmp_path / "b*.tar"))


def test_what_a_newer_version_packed_is_refused(draw: Draw, elsewhere: Path) -> None:
    root = draw(*NAMES)
    out = pack(str(root), str(elsewhere / "out")).folder
    manifest = json.loads((out / "shards.json").read_text())
    (out / "shards.json").write_text(json.dumps(manifest | {"format": 2, "beit": "9.1"}))
    said = r"made by beit 9\.1 in format 2, this version reads 1[\s\S]*install beit 9\.1"
    with pytest.raises(DataError, match=said):
        open_source(str(out))
    with pytest.raises(RunFolderError, match=said):
        pack(str(root), str(out))


def test_index_of_another_format_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """It only repeats what the shard says, so that no error is needed."""
    index = shard_index.build_index(io.BytesIO(bytes(10240)))
    stamp = shard_index.Stamp(10240, "now")
    with monkeypatch.context() as newer:
        newer.setattr(shard_index, "FORMAT", shard_index.FORMAT + 1)
        content = shard_index.write_index(index, stamp)
    assert shard_index.read_index(content, stamp) is None


def test_index_says_of_what_it_is() -> None:
    index = shard_index.build_index(io.BytesIO(bytes(10240)))
    stamp = shard_index.Stamp(10240, "now")
    content = shard_index.write_index(index, stamp)
    assert shard_index.read_index(content, stamp) is not None
    assert shard_index.read_index(content, stamp._replace(mark="later")) is None
    assert shard_index.read_index(content, stamp._replace(size=1)) is None
    assert shard_index.read_index(b"", stamp) is None


def test_shards_in_one_folder_are_divided_by_their_names(elsewhere: Path) -> None:
    for split, start in (("train", 0), ("validation", 4)):
        for number in (start, start + 2):
            members = {f"{at}.png": b"x" for at in (number, number + 1)}
            labels = {f"{at}.cls": str(at % 2).encode() for at in (number, number + 1)}
            tar(elsewhere / f"flowers-{split}-{number:06d}.tar", members | labels)
    for path in (str(elsewhere), str(elsewhere / "*.tar")):
        assert {split: len(one) for split, one in Dataset(path).splits().items()} == {
            "train": 4,
            "val": 4,
        }
        assert keys_of(open_source(path)) == [f"train/{at}.png" for at in range(4)]
    assert len(open_source(str(elsewhere / "*train*.tar"))) == 4
    tar(elsewhere / "more.tar", {"9.png": b"x"})
    with pytest.raises(DataError, match=r"are train or val, others, such as '.*more\.tar', do not"):
        open_source(str(elsewhere))


def keys_of(source: ImageSource) -> list[str]:
    return [source.key(index) for index in range(len(source))]
