"""Files in, labels and features out; what cannot be read is named."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

import beit
from beit.cli import main
from beit.config.bulk import EmbedConfig, PredictConfig
from beit.errors import ConfigError, DataError, RunFolderError
from beit.inference.files import embed as embed_file
from beit.inference.files import predict, print_predictions, single_file


@pytest.fixture
def folder(class_folders, tmp_path):
    """Five images, two of them in a folder of their own, and one file that is none."""
    (tmp_path / "more").mkdir()
    for number in range(5):
        place = tmp_path / ("more" if number > 2 else "") / f"{number}.png"
        shutil.copy(class_folders / "stripes" / f"{number:02}.png", place)
    (tmp_path / "broken.png").write_bytes(b"rubbish")
    return tmp_path


def predictions(trained, paths, batch=2):
    return predict(str(trained.classifier), paths, PredictConfig(top=2, batch=batch))


def test_every_image_has_its_line(trained, folder, capsys):
    print_predictions(predictions(trained, [str(folder)]), "json")
    rows = {row["image"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert len(rows) == 6
    broken = rows.pop(str(folder / "broken.png"))
    assert "labels" not in broken
    assert broken["unreadable"]
    predictor = beit.load(trained.classifier)
    for path, row in rows.items():
        expected = predictor.predict(path, top=2)
        assert [label["name"] for label in row["labels"]] == [label.name for label in expected]
        assert row["labels"][0]["probability"] == pytest.approx(expected[0].probability, abs=1e-5)


def test_answers_come_in_the_order_asked(trained, folder):
    asked = [str(folder / name) for name in ("0.png", "broken.png", "1.png", "missing.png")]
    for batch in (1, 2, 9):
        found = list(predictions(trained, asked, batch))
        assert [one.path for one in found] == asked
        assert [bool(one.labels) for one in found] == [True, False, True, False]


def test_the_table_names_what_cannot_be_read(trained, folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    print_predictions(predictions(trained, [str(folder), str(folder / "1.png")]), "table")
    lines = capsys.readouterr().out.splitlines()
    assert sum("1.png" in line for line in lines) == 2
    (broken,) = [line for line in lines if "broken.png" in line]
    assert "unreadable" in broken


def test_the_size_of_batches_does_not_matter(trained, folder):
    def told(batch):
        return {
            found.path: [label.name for label in found.labels]
            for found in predictions(trained, [str(folder)], batch)
        }

    assert told(1) == told(32)


@pytest.mark.parametrize("form", ["table", "json"])
def test_the_exit_code_says_that_a_image_was_not_answered(
    trained, folder, capsys, monkeypatch, form
):
    monkeypatch.setenv("COLUMNS", "300")
    words = ["predict", str(trained.classifier), "--format", form]
    assert main([*words, str(folder / "1.png")]) == 0
    assert not capsys.readouterr().err
    for asked, others in ((folder, 5), (folder / "broken.png", 0)):
        assert main([*words, str(asked)]) == 3
        told = capsys.readouterr()
        assert told.out.count("unreadable") == 1
        assert sum(f"{number}.png" in told.out for number in range(5)) == others
        assert f"error: not answered, as they cannot be read: '{folder / 'broken.png'}'" in told.err


def test_nothing_to_predict(trained):
    with pytest.raises(ConfigError, match="no images were given"):
        list(predictions(trained, []))
    with pytest.raises(ConfigError, match="an empty name was given"):
        list(predictions(trained, ["cat.jpg", ""]))


def embed(trained, folder, out, **options):
    config = EmbedConfig(out=str(out), batch=2, **options)
    return embed_file(str(trained.pretrained), [str(folder)], config, single_file(config))


def test_all_formats_hold_the_same_features(trained, folder, tmp_path, capsys):
    outs = [tmp_path / "out" / f"features{end}" for end in (".npz", ".csv", ".safetensors")]
    said = [embed(trained, folder, out) for out in outs]
    assert said[0] == f"{outs[0]}: 5 images x 48 features, 1 unreadable"
    assert f"unreadable: {folder / 'broken.png'}" in capsys.readouterr().err
    with np.load(outs[0]) as file:
        keys, features = file["keys"].tolist(), file["features"]
    with outs[1].open() as file:
        header, *rows = csv.reader(file)
    assert header[:2] == ["image", "feature_0"]
    assert [row[0] for row in rows] == keys
    written = np.array([row[1:] for row in rows], np.float32)
    assert np.array_equal(written, features)
    assert np.array_equal(safetensors.numpy.load_file(outs[2])["features"], features)
    with safe_open(outs[2], "numpy") as file:
        assert json.loads(file.metadata()["keys"]) == keys
    expected = beit.load(trained.pretrained).embed(keys).numpy()
    assert np.allclose(features, expected, atol=1e-5)


def test_another_block(trained, folder, tmp_path):
    for block in (0, 3):
        embed(trained, folder, tmp_path / f"{block}.npz", block=block)
    with np.load(tmp_path / "0.npz") as first, np.load(tmp_path / "3.npz") as last:
        assert not np.array_equal(first["features"], last["features"])


def test_features_are_never_written_over(trained, folder, tmp_path):
    out = tmp_path / "features.npz"
    out.write_text("mine")
    with pytest.raises(RunFolderError, match="nothing is overwritten"):
        embed(trained, folder, out)
    assert out.read_text() == "mine"


def test_features_of_nothing(trained, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"rubbish")
    with pytest.raises(DataError, match="no image could be read"):
        embed(trained, tmp_path, tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_unknown_formats_are_refused_before_the_work(tmp_path):
    with pytest.raises(ConfigError, match=r"written as '\.xlsx'"):
        single_file(EmbedConfig(out=str(tmp_path / "x.xlsx")))


def test_one_file_is_written_by_one_process(tmp_path, monkeypatch):
    for config in ({"part": "1/2"}, {"engine": "ray"}):
        with pytest.raises(ConfigError, match="several processes cannot write one"):
            single_file(EmbedConfig(out=str(tmp_path / "x.npz"), **config))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="several processes cannot write one"):
        single_file(EmbedConfig(out=str(tmp_path / "x.npz")))


def test_tokens_of_a_tokenizer(trained, folder, tmp_path):
    config = EmbedConfig(out=str(tmp_path / "x.npz"))
    said = embed_file(str(trained.tokenizer), [str(folder / "more")], config, tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as file:
        keys, tokens = file["keys"].tolist(), file["tokens"]
    assert said.endswith(f"2 images x {tokens.shape[1]} tokens")
    assert np.array_equal(tokens, beit.load(trained.tokenizer).tokens(keys).numpy())


def test_files_of_any_name_are_answered_or_listed(trained, folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    (folder / "x.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    (folder / "notes.doc").write_text("words")
    shutil.copy(folder / "1.png", folder / "noname")
    (folder / "empty").mkdir()
    names = ["x.heic", "1.png", "notes.doc", "nothing.jpg", "noname", "empty"]
    rows = {
        row.path.rpartition("/")[2]: row
        for row in predictions(trained, [str(folder / name) for name in names])
    }
    assert set(rows) == set(names)
    assert {name for name, row in rows.items() if row.labels} == {"1.png", "noname"}
    assert rows["x.heic"].unreadable == "HEIC is not decoded: convert it to JPEG or PNG"
    assert "none of JPEG" in rows["notes.doc"].unreadable
    assert "nothing at" in rows["nothing.jpg"].unreadable
    assert "holds no files" in rows["empty"].unreadable
    words = ["predict", str(trained.classifier), str(folder / "x.heic"), str(folder / "1.png")]
    assert main(words) == 3
    assert "x.heic" in capsys.readouterr().err


def test_every_image_below_a_folder_is_answered_whatever_its_folders_mean(trained, folder):
    for name in ("site/train", "site/test", "other/train", "other/test"):
        (folder / name).mkdir(parents=True)
        shutil.copy(folder / "1.png", folder / name)
    found = {row.path for row in predictions(trained, [str(folder)])}
    assert len(found) == 10
