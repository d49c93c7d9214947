"""Names of files and classes that are meant to act on a terminal, a log, a page or a parser."""

from __future__ import annotations

import contextlib
import copy
import csv
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

import beit
from beit.cli import main, program
from beit.errors import DataError
from beit.report.markup import render
from beit.terminal import PrintableFormatter, printable_lines
from beit.weights.store import load_artifact
from children import in_a_child
from served import png, serving

NAMES = [
    "\x1b[31mred\x1b]0;title\x07", "cr\rover", "new\nerror: line", "\u202etxt.exe", "\u2028sep",
    "[bold]x", "[b", "<script>alert(1)<", "{}{0}", "%s%(x)s%n", "x" * 240,
    os.fsdecode(b"caf\xe9"), "-dash", "--resume", "dots..", "'quo\"te`id`$HOME", "👩\u200d🔬 emoji",
    "=cmd|A0", "&amp;", " blank ", "tab\there", ",;comma", "\x9b31mC1", "a\\b",
]  # fmt: skip
FILES = ("plain", *NAMES[:3], "[/b]x", NAMES[11])
"""One of them is a folder, whose path holds the end of a tag."""


TEXT = [name.replace("\n", " ").replace("\r", " ") for name in NAMES if name.strip() == name]
"""Of them those that may be lines of a file with class names."""

TRAINING = [
    "--steps", "2", "--warmup-steps", "0", "--batch", "8", "--workers", "0", "--device", "cpu",
    "--precision", "fp32", "--bad-limit", "0.5", "--log-every", "1", "--save-every", "100",
]  # fmt: skip
VERBS = [
    "data check {data}",
    "data check {data} --format json",
    "data pack {data} {runs}/shards",
    "tokenizer tiny --data {data} --out {runs}/tok {training}",
    "pretrain tiny --data {data} --out {runs}/pre --tokenizer {runs}/tok --accept-collapsed"
    " {training}",
    "finetune tiny --data {data} --out {runs}/cls --init {runs}/pre {training}",
    "finetune tiny --data {data} --out {runs}/cls --init {runs}/pre {training} --resume",
    "evaluate {runs}/cls --data {data} --workers 0",
    "evaluate {runs}/cls --data {data} --workers 0 --format json",
    "probe {runs}/pre --data {data} --out {runs}/probe --epochs 1 --attentive-epochs 1"
    " --workers 0 --shots 1 --seeds 1",
    "predict {runs}/cls {data}/val",
    "predict {runs}/cls {data}/val --format json",
    "predict {runs}/cls {data}/train",
    "embed {runs}/pre {data}/val --out {runs}/features.csv",
    "embed {runs}/pre {data}/val --out {runs}/features.npz",
    "embed {runs}/pre {data}/val --out {runs}/features.safetensors",
    "report {runs}/tok",
    "report {runs}/pre",
    "report {runs}/cls",
    "report {runs}/pre {runs}/cls --out {runs}/both.html",
    "show neighbours {runs}/pre --data {data} --out {runs}/neighbours.png --images 32",
    "convert {runs}/cls {runs}/hf --to hf",
    "convert {runs}/cls {runs}/timm --to timm",
    "convert {runs}/hf {runs}/again",
    "push {runs}/cls owner/name --dry-run {runs}/pushed",
    "export {runs}/cls {runs}/cls.pt2 --to torch --samples 2",
    "export {runs}/cls {clean}/cls.pt2 --to torch --samples 2",
    "segment tiny --data {data}/../masked --out {runs}/seg --init {runs}/pre {training}",
    "evaluate {runs}/seg --data {data}/../masked --workers 0",
    "predict {runs}/seg {data}/../masked/images --out {runs}/segmented",
    "report {runs}/seg",
]
CODES = {
    "export {runs}/cls {runs}/cls.pt2 --to torch --samples 2": 2,  # a path that is not UTF-8
    VERBS[0]: 3,
    VERBS[1]: 3,
    "predict {runs}/cls {data}/train": 3,
}
"""Where an unreadable image is among the others."""


class Said(NamedTuple):
    """What one command came to."""

    code: int
    out: str
    err: str


class Walk(NamedTuple):
    """Class folders with such names, what came of them, and all that was printed."""

    data: Path
    runs: Path
    said: dict[str, Said]


def image(place: Path, rng: np.random.Generator) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(place)


def write_images(root: Path) -> Path:
    """Class folders in `data`, and images with masks in `masked`."""
    rng = np.random.default_rng(0)
    for part, files in (("train", FILES), ("val", FILES[:2])):
        for name in NAMES:
            for file in files:
                image(root / "data" / part / name / f"{file}.png", rng)
    broken = root / "data" / "train" / NAMES[0] / f"broken{NAMES[1]}.png"
    broken.write_bytes(b"\x1b[31m no image")
    for file in NAMES:
        image(root / "masked" / "images" / f"{file}.png", rng)
        labels = rng.integers(0, len(TEXT), (32, 32), dtype=np.uint8)
        (root / "masked" / "masks").mkdir(exist_ok=True)
        Image.fromarray(labels).save(root / "masked" / "masks" / f"{file}.png")
    names = "\n".join(TEXT).encode("utf-8", "replace")
    (root / "masked" / "classes.txt").write_bytes(names)
    return root / "data"


def words(verb: str, data: Path, runs: Path) -> list[str]:
    """The arguments of a command."""
    parts = [
        part.format(data=data, runs=runs, clean=runs.parent.parent, training="{training}")
        for part in verb.split()
    ]
    place = parts.index("{training}") if "{training}" in parts else len(parts)
    return parts[:place] + (TRAINING + parts[place + 1 :] if place < len(parts) else [])


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """Every verb, one after the other."""
    root = tmp_path_factory.mktemp("hostile") / f"[b]{NAMES[0]}{NAMES[2]}{NAMES[11]}"
    data, runs, said = write_images(root), root / "runs", {}
    for verb in VERBS:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words(verb, data, runs))
        said[verb] = Said(code, out.getvalue(), err.getvalue())
    return Walk(data, runs, said)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_goes_through_and_prints_what_shows_itself(walk, verb):
    said = walk.said[verb]
    assert said.code == CODES.get(verb, 0), said.err
    for text in (said.out, said.err):
        assert printable_lines(text) == text
        assert "\nerror: line" not in text  # no name begins a line
        text.encode()
    if "json" in verb:
        found = [json.loads(line) for line in said.out.splitlines()] if "predict" in verb else [
            json.loads(said.out)
        ]  # fmt: skip
        assert found


def test_nothing_of_a_name_vanishes(walk):
    """As `[bold]` did, which was read as markup."""
    tables = ("evaluate {runs}/cls --data {data} --workers 0", "predict {runs}/cls {data}/val")
    told = "".join(walk.said[verb].out for verb in tables)  # the first shows the 20 worst classes
    for name in ("[bold]x", "<script>alert(1)<", "%s%(x)s%n", "{}{0}", "\\x1b[31mred", "\\udce9"):
        assert name in told


def test_json_names_the_files_as_they_are(walk):
    verb = "predict {runs}/cls {data}/val --format json"
    rows = [json.loads(line) for line in walk.said[verb].out.splitlines()]
    assert len(rows) == len(NAMES) * 2
    assert all(Path(row["image"]).is_file() for row in rows)
    assert {label["name"] for row in rows for label in row["labels"]} <= set(NAMES)


def test_tables_of_features_name_the_files_as_they_are(walk):
    with (walk.runs / "features.csv").open(
        newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        keys = [row[0] for row in csv.reader(file)][1:]
    assert len(keys) == len(NAMES) * 2
    assert all(Path(key).is_file() for key in keys)
    assert list(np.load(walk.runs / "features.npz")["keys"]) == keys
    with safe_open(walk.runs / "features.safetensors", "np") as file:
        assert json.loads(file.metadata()["keys"]) == keys


def test_classes_keep_their_true_names(walk):
    for folder in ("cls", "again"):
        assert sorted(load_artifact(walk.runs / folder).details.classes) == sorted(NAMES)
    answer = beit.load(walk.runs / "cls").predict(walk.data / "val" / NAMES[10] / "plain.png")
    assert {label.name for label in answer} <= set(NAMES)


def test_logs_and_pages_hold_only_what_shows_itself(walk):
    logs = [*walk.runs.rglob("log.txt"), *walk.runs.rglob("README.md")]
    pages = [*walk.runs.rglob("*.html")]
    assert len(logs) >= 5
    assert len(pages) >= 5
    for file in [*logs, *pages]:
        text = file.read_text("utf-8").replace("\t", " ")
        assert printable_lines(text) == text, file
        assert file.suffix == ".txt" or "<script>alert" not in text, file
    for file in [*walk.runs.rglob("*.json"), *walk.runs.rglob("*.jsonl")]:
        assert file.read_bytes().isascii(), file


def test_the_run_knows_its_images_again(walk):
    """Names that are not UTF-8, or hold a line break, are kept: nothing has changed."""
    log = (walk.runs / "cls" / "log.txt").read_text()
    assert "going on after step 2" in log or "done" in log
    assert "have changed" not in log


def test_a_server_answers_with_the_true_names(walk, environment):
    with serving(str(walk.runs / "cls"), environment=environment) as server:
        status, answer, _ = server.ask("GET", "/models")
        assert (status, sorted(answer["models"][0]["classes"])) == (200, sorted(NAMES))
        status, answer, _ = server.ask("POST", "/predict", png(0))
        assert status == 200
        assert {label["name"] for label in answer["labels"]} <= set(NAMES)
        for path in ("/%1b[31m%0aerror:%20line", "/%ff%00", "/predict?model=%1b[31m%ff"):
            assert server.ask("POST", path, png(0))[0] in (404, 422)
        assert printable_lines(server.log()) == server.log()
        assert "\nerror: line" not in server.log()


def plainly_printed(out: bytes, err: bytes) -> None:
    """The names came, and nothing that acts on a terminal."""
    assert b"Traceback" not in err
    assert b"\x1b" not in out
    assert b"[bold]x" in out
    assert "👩".encode() not in out


def test_no_encoding_of_the_terminal_ends_a_command(walk, tmp_path):
    words = ["predict", str(walk.runs / "cls"), str(walk.data / "val")]
    files = {1: tmp_path / "out", 2: tmp_path / "err"}

    def run() -> None:
        for number, file in files.items():
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
        sys.stdout, sys.stderr = (
            os.fdopen(number, "w", encoding="latin-1", closefd=False) for number in files
        )
        sys.argv = ["beit", *words]
        with pytest.raises(SystemExit) as left:
            program()
        assert left.value.code == 0

    assert in_a_child(run) == 0
    plainly_printed(*(file.read_bytes() for file in files.values()))


def test_nor_does_a_system_that_knows_ascii_alone(walk, environment):
    surroundings = environment | {
        "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
    }  # fmt: skip
    command = [sys.executable, "-m", "beit.cli", "predict", walk.runs / "cls", walk.data / "val"]
    done = subprocess.run(command, env=surroundings, capture_output=True)
    assert done.returncode == 0, done.stderr.decode("latin-1")
    plainly_printed(done.stdout, done.stderr)


def test_errors_and_logs_of_hostile_names():
    error = DataError("a\x1b[31m\nerror: b\udce9", remedy="c\r\u202e")
    assert str(error) == "a\\x1b[31m\\nerror: b\\udce9\n  remedy: c\\r\\u202e"
    assert str(copy.copy(error)) == str(error)
    record = logging.LogRecord(
        "beit", logging.INFO, "", 0, "%s of %d:\n%s", ("a\nb\x1b", 3, Path("c\r")), None
    )
    assert PrintableFormatter("%(message)s").format(record) == "a\\nb\\x1b of 3:\nc\\r"
    assert record.args == ("a\nb\x1b", 3, Path("c\r"))  # others may format it, too
    name = "<b>\x00\udce9\u202e"
    page = render("no-images.html.j2", problem=name, remedy="", again=name)
    assert page.count("&lt;b&gt;\\x00\\udce9\\u202e") == 2


@pytest.mark.parametrize("content", ["a.png,\x00b\n", "\x00", "a.png,\x1b[31mb\n", "a\udcff,b\n"])
def test_lists_with_what_no_list_holds(tmp_path, content, capsys):
    image(tmp_path / "a.png", np.random.default_rng(0))
    file = tmp_path / "list.csv"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert main(["data", "check", str(file)]) in (0, 3)
    printed = "".join(capsys.readouterr())
    assert printable_lines(printed) == printed
