"""Options of reading that would change nothing of the data they are given for are refused."""

from __future__ import annotations

import io
import re
import tarfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beit.cli.verbs import main
from beit.config.data import ClassFolderConfig, Division, FolderConfig, LabelFileConfig, Reading
from beit.data.dataset import Dataset, open_source, reading_for
from beit.data.labelled import divide
from beit.errors import ConfigError, DataError

OPENED = (
    open_source,
    lambda path, reading: Dataset(path, reading).splits(),
    lambda path, reading: Dataset(path, reading).part("val"),
    lambda path, reading: divide(Dataset(path, reading), Division(split=0.5, seed=0)).train,
)
LABEL_FILE = Reading(label_file=LabelFileConfig(label_column="x"))
CLASS_LEVEL = Reading(FolderConfig(class_level=1))
FOLD = Reading(FolderConfig(fold="fold1"))
MISSING = Reading(FolderConfig(accept_missing_classes=True))


def png(value: int) -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(held, "PNG")
    return held.getvalue()


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """The same images in every form: folder, label file, shards, Parquet, and one alone."""
    folder, shards = tmp_path / "folder", tmp_path / "shards"
    shards.mkdir()
    rows = ["image,label"]
    with tarfile.open(shards / "0.tar", "w") as shard:
        for number in range(8):
            name, data = "ab"[number % 2], png(number)
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / f"{number}.png").write_bytes(data)
            rows.append(f"folder/{name}/{number}.png,{name}")
            for suffix, content in (("png", data), ("cls", str(number % 2).encode())):
                entry = tarfile.TarInfo(f"{number}.{suffix}")
                entry.size = len(content)
                shard.addfile(entry, io.BytesIO(content))
    (tmp_path / "list.csv").write_text("\n".join(rows))
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(
        arrow.table({"image": [{"bytes": png(n), "path": None} for n in range(8)],
                     "label": [n % 2 for n in range(8)]}),
        tmp_path / "images.parquet",
    )  # fmt: skip
    (tmp_path / "one.png").write_bytes(png(1))
    names = {"file": "list.csv", "stored": "shards", "parquet": "images.parquet", "one": "one.png"}
    return {"folder": str(folder)} | {name: str(tmp_path / at) for name, at in names.items()}


@pytest.mark.parametrize("opened", OPENED)
@pytest.mark.parametrize(
    ("place", "reading", "refused"),
    [
        *(
            (place, reading, f"{option} was given, and .* is not a folder of images")
            for place in ("file", "stored", "parquet", "one")
            for reading, option in ((CLASS_LEVEL, "class_level"), (FOLD, "fold"))
        ),
        ("file", MISSING, "accept_missing_classes was given, and .* is not a folder of images"),
        *(
            (place, LABEL_FILE, "label_column was given, and .* is not a label file")
            for place in ("folder", "stored", "parquet", "one")
        ),
    ],
)
def test_options_for_other_data_are_refused(places, opened, place, reading, refused) -> None:
    with pytest.raises(ConfigError, match=refused):
        opened(places[place], reading)


@pytest.mark.parametrize("opened", OPENED)
@pytest.mark.parametrize(
    ("place", "reading"),
    [("folder", CLASS_LEVEL), ("folder", MISSING), ("stored", MISSING), ("parquet", MISSING)],
)
def test_options_that_apply_are_taken(places, opened, place, reading) -> None:
    opened(places[place], reading)


def test_a_path_that_is_not_there_is_said_first() -> None:
    for reading in (CLASS_LEVEL, LABEL_FILE):
        with pytest.raises(DataError, match="there is nothing at nowhere"):
            open_source("nowhere/at.csv", reading)


def test_two_places_share_the_options(places) -> None:
    """Each takes those that are for it; what neither takes stays, and is refused."""
    both = Reading(CLASS_LEVEL.folders, LABEL_FILE.label_file)
    folder, file, stored = places["folder"], places["file"], places["stored"]
    assert reading_for(folder, both, other=file) == CLASS_LEVEL
    assert reading_for(file, both, other=folder) == LABEL_FILE
    assert reading_for(stored, both, other=file) == CLASS_LEVEL
    assert reading_for(stored, CLASS_LEVEL, other=folder) == Reading()
    assert reading_for(folder, CLASS_LEVEL, other=stored) == CLASS_LEVEL
    assert reading_for(folder, both, other="") == both


@pytest.mark.parametrize(
    "verb",
    ["data check", "data pack", "tokenizer", "tokenizer compare", "pretrain", "finetune", "probe",
     "evaluate", "predict", "embed", "export", "show neighbours", "doctor", "study own"],
)  # fmt: skip
def test_every_verb_that_reads_images_takes_the_options_of_reading(verb, capsys) -> None:
    with pytest.raises(SystemExit):
        main([*verb.split(), "--help"])
    options = {*re.findall(r"--([a-z-]+)", capsys.readouterr().out)}
    for config in (ClassFolderConfig, LabelFileConfig):
        assert {item.name.replace("_", "-") for item in fields(config)} <= options


def test_packing_takes_the_classes_in_names(tmp_path, capsys) -> None:
    (tmp_path / "pets").mkdir()
    for number in range(8):
        (tmp_path / "pets" / f"{'cat' if number % 2 else 'dog'}_{number}.png").write_bytes(
            png(number)
        )
    words = ["data", "pack", str(tmp_path / "pets"), str(tmp_path / "shards")]
    assert main([*words, "--label-pattern", "([a-z]+)_"]) == 0
    packed = open_source(str(tmp_path / "shards"))
    assert packed.classes == ("cat", "dog")
    assert packed.targets.tolist() == [0] * 4 + [1] * 4
    assert main([*words[:3], str(tmp_path / "none"), "--label-pattern", "bird"]) == 3
    assert "finds nothing in 8 of 8 names" in capsys.readouterr().err
