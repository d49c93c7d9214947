"""The command line: every verb, and for every wrong input its exit code, its message, no folder."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import beit
from beit import cli
from beit.cli.places import check_options
from beit.errors import ConfigError, DataError
from beit.recipes import RECIPES
from beit.terminal import counted
from beit.training.run_folder import read_run_config

GOLDEN = Path(__file__).parent / "golden"


QUICK = ["--steps", "2", "--warmup-steps", "1", "--workers", "0", "--device", "cpu", "--precision",
         "fp32"]  # fmt: skip


def call(capsys, *arguments) -> tuple[int, str, str]:
    """Exit code, output and errors of one command."""
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as left:  # from the parser of options
        code = int(left.code or 0)
    told = capsys.readouterr()
    return code, told.out, told.err


def test_from_images_to_labels(capsys, class_folders, tmp_path):
    """The whole way, with the commands a user types."""
    tok, pre, fine = (tmp_path / name for name in ("tok", "pre", "fine"))
    data = ["--data", class_folders]
    code, out, _ = call(capsys, "tokenizer", "tiny", *data, "--out", tok, *QUICK)
    assert code == 0
    assert "evaluation: psnr" in out
    assert f"model   {tok / 'model'}" in out
    pretrain = ["pretrain", "tiny", *data, "--out", pre, "--tokenizer", tok, *QUICK]
    pretrain += ["--accept-collapsed"]  # after so few steps
    pretrain += ["--relative-position", "shared", "--no-absolute-position"]
    code, out, _ = call(capsys, *pretrain)
    assert code == 0
    assert "(chance 3.466)" in out
    assert "evaluation: neighbours" in out
    assert call(capsys, *pretrain, "--resume", "--quiet") == (0, "", "")
    assert call(capsys, "finetune", "tiny", *data, "--out", fine, "--init", pre, *QUICK)[0] == 0
    assert read_run_config(fine).model.relative_position == "per-block"

    image = class_folders / "disc" / "00.png"
    code, out, _ = call(capsys, "predict", fine, image, "--top", "2", "--format", "json")
    assert code == 0
    assert len(json.loads(out)["labels"]) == 2
    code, out, _ = call(capsys, "predict", fine, image)
    assert code == 0
    assert "probability" in out
    code, out, _ = call(capsys, "embed", pre, image, "--out", tmp_path / "x.npz", "--block", "1")
    assert (code, out) == (0, f"{tmp_path / 'x.npz'}: 1 image x 48 features\n")
    code, out, _ = call(capsys, "report", pre)
    assert code == 0
    assert "report.html" in out


def test_finetuning_from_scratch(capsys, class_folders, tmp_path):
    code, out, _ = call(
        capsys, "finetune", "tiny", "--data", class_folders, "--out", tmp_path / "run",
        "--size", "16", "--per-class", "4", "--pooling", "cls", *QUICK,
    )  # fmt: skip
    assert code == 0
    assert "12 images" in out
    assert read_run_config(tmp_path / "run").model.size == (16, 16)


@pytest.mark.parametrize(("words", "size"), [(["24"], (24, 24)), (["24", "32"], (24, 32))])
def test_one_side_stands_for_both(monkeypatch, words, size):
    monkeypatch.setattr(
        "beit.tasks.folds.run_folds",
        lambda _task, _recipe, options, **_: pytest.fail(f"{options['size']}"),
    )
    with pytest.raises(pytest.fail.Exception, match=str(size[0]) + ", " + str(size[1])):
        cli.main(["pretrain", "tiny", "--size", *words])


@pytest.fixture
def wrong(tmp_path, class_folders):
    """Folders with one fault each, by name."""
    places = {name: tmp_path / name for name in ("empty", "rubbish", "unlike", "used", "file")}
    for name in ("empty", "rubbish", "used"):
        places[name].mkdir()
    (places["rubbish"] / "a.png").write_bytes(b"rubbish")
    (places["rubbish"] / "b.png").write_bytes(b"")
    (places["used"] / "letter.txt").write_text("dear all")
    shutil.copytree(class_folders, places["unlike"] / "train")
    shutil.copytree(class_folders / "disc", places["unlike"] / "val" / "dics")
    places["file"].write_text("")
    return {name: str(path) for name, path in places.items()}


CASES = {
    "unknown option": ("pretrain tiny --sise 32", 2, ["--sise", "--size"]),
    "abbreviated option": ("pretrain tiny --mask-rati 0.3", 2, ["--mask-rati", "--mask-ratio"]),
    "mistyped recipe": ("pretrain tini", 2, ["'tini'", "did you mean 'tiny'?"]),
    "mistyped verb": ("pretran", 2, ["'pretran'", "did you mean 'pretrain'?"]),
    "verb of a task that is not imported": ("ordered tiny", 2, ["'ordered'", "known: convert, "]),
    "option of other programs": ("finetune tiny {io} --batch-size 3", 2, ["use --batch (see"]),
    "option of another verb": ("segment tiny {io} --masks=m", 2,
                               ["segment has no option --masks", "use --annotations (see"]),
    "mistyped choice": ("pretrain tiny --precision fp8", 2, ["fp8", "bf16"]),
    "no number": ("pretrain tiny --depth deep", 2, ["--depth", "deep"]),
    "size and patch": ("pretrain tiny {io} --size 33", 2, ["size 33", "of 4", "use 32 or 36"]),
    "heads": ("pretrain tiny {io} --heads 5", 2, ["48", "5 heads"]),
    "warm-up": ("pretrain tiny {io} --warmup-steps 30", 2, ["30", "fewer warm-up steps"]),
    "warm-up of the default": ("finetune {io} --steps 20 --warmup-steps 500", 2,
                               ["error: warmup_steps 500", "--warmup-steps 2", "recipe tiny"]),
    "steps below zero": ("finetune {io} --steps -5", 2, ["error: steps is -5", "at least 1"]),
    "batch below zero": ("evaluate {fine} --data {data} --batch 0", 2, ["error: batch is 0"]),
    "epochs below zero": ("probe {pre} {io} --epochs -5", 2, ["error: epochs is -5"]),
    "recipe behind options": ("pretrain {io} tiny", 2,
                              ["error: ", "comes first: beit pretrain tiny --data"]),
    "recipe of a probe": ("probe tiny {pre} {io}", 2, ["MODEL --recipe tiny"]),
    "import behind the verb": ("report --import own {pre}", 2, ["beit --import own report"]),
    "traceback behind the verb": ("report {pre} --traceback", 2, ["beit --traceback report"]),
    "mistyped subcommand": ("show neighbour {pre} {io}", 2,
                            ["show has no subcommand 'neighbour'", "did you mean 'neighbours'?"]),
    "mistyped data command": ("data chek {data}", 2, ["'chek'", "did you mean 'check'?"]),
    "mistyped replay": ("doctor repaly file", 2, ["'repaly'", "did you mean 'replay'?"]),
    "module not found": ("pretrain nowhere:recipe {io}", 2, ["nowhere", "PYTHONPATH=. beit"]),
    "file for a module": ("pretrain own.py:recipe {io}", 2, ["leave .py out: own\n"]),
    "file to import": ("--import own.py report {pre}", 2, ["leave .py out: own\n"]),
    "half precision": ("finetune tiny {io} --precision fp16", 2, ["fp16", "bf16 or fp32"]),
    "batch and micro-batch": ("finetune tiny {io} --micro-batch 5", 2, ["5", "batch 16"]),
    "grids": ("pretrain tiny {io} --tokenizer {tok} --size 40", 2,
              ["8 x 8 tokens", "10 x 10 patches", "for this grid"]),
    "channels": ("pretrain tiny {io} --tokenizer {tok} --channels 1", 2,
                 ["3 channels", "1"]),
    "no tokenizer": ("pretrain tiny {io} --tokenizer {pre}", 4, ["masked model, not a tokenizer"]),
    "nothing hidden": ("pretrain tiny {io} --mask-ratio 0", 2, ["mask_ratio is 0", "--predict"]),
    "no data": ("pretrain tiny --out {out}", 2, ["no images", "--data"]),
    "no out": ("finetune tiny --data {data}", 2, ["no folder", "--out"]),
    "no out for a tokenizer": ("pretrain tiny --data {data}", 2, ["no folder", "--out"]),
    "missing data": ("pretrain tiny --data nowhere --out {out}", 3, ["nowhere"]),
    "empty data": ("pretrain tiny --data {empty} --out {out}", 3, ["empty", "contains images"]),
    "no readable image": ("tokenizer tiny --data {rubbish} --out {out}", 3, ["a.png"]),
    "labels differ": ("finetune tiny --data {unlike} --out {out}", 3, ["disc", "dics", "val/"]),
    "no labels": ("finetune tiny --data {data}/disc --out {out}", 3, ["no class folders"]),
    "architecture": ("finetune tiny {io} --init {pre} --depth 6", 4,
                     ["another architecture", "depth is 6, and 4 in", "leave these options out"]),
    "no artifact": ("finetune tiny {io} --init nowhere", 4, ["nowhere", "no file or folder"]),
    "used folder": ("finetune tiny --data {data} --out {used}", 7,
                    ["not empty", "remedy: choose another --out"]),
    "no run to report": ("report nowhere", 7, ["there is nothing at nowhere"]),
    "model of a run": ("report {pre}/model", 7,
                       ["not the folder of a run", "the run around it, {pre}\n"]),
    "no folder of a run": ("report {empty}", 7, ["(No such file or directory: config.json)"]),
    "no record": ("doctor replay nowhere.safetensors", 4, ["no file nowhere.safetensors"]),
    "image before the model": ("predict {data}/disc/00.png {fine}", 4,
                                 ["00.png is an image", "give a model", "before the images"]),
    "folder of a run": ("finetune tiny --data {data} --out {pre}", 7, ["holds a run", "--resume"]),
    "out is a file": ("finetune tiny --data {data} --out {file}", 7, ["is a file"]),
    "nothing to resume": ("finetune tiny {io} --resume", 7, ["no run to resume"]),
    "nothing to resume by itself": ("finetune --out nowhere --resume", 7, ["no run to resume"]),
    "other settings": ("finetune tiny --data {data} --out {fine} --resume --lr 0.5", 7,
                       ["training.lr", "0.5"]),
    "masked models do not classify": ("predict {pre} {data}", 2, ["masked", "finetune --init"]),
    "no such model": ("predict nowhere {data}", 4, ["nowhere", "no file or folder"]),
    "no images to predict": ("predict {fine} {empty}", 3, ["empty"]),
    "answers to one file": ("predict {fine} {data} --out {out}.csv", 2,
                            ["to a folder", "--format json, or csv"]),
    "unknown format": ("embed {pre} {data} --out x.xlsx", 2, [".xlsx", ".npz"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_wrong_input(capsys, monkeypatch, trained, class_folders, tmp_path, wrong, case):
    monkeypatch.setenv("COLUMNS", "200")
    line, code, words = CASES[case]
    out = tmp_path / "out"
    places = wrong | {
        "data": class_folders, "out": out, "io": f"--data {class_folders} --out {out}",
        "tok": trained.tokenizer, "pre": trained.pretrained, "fine": trained.classifier,
    }  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    found, _, told = call(capsys, *line.format(**places).split())
    assert found == code, told
    for word in words:
        assert word.format(**places) in told
    assert "Traceback" not in told
    if told.startswith("error:"):
        assert "\n  remedy: " in told
    assert sorted(tmp_path.rglob("*")) == before


WRONG_PATHS = {
    "predict runs/nothing image.jpg": 4,
    "evaluate runs/nothing --data images": 4,
    "embed ./nothing . --out x.npz": 4,
    "export runs/nothing x.onnx": 4,
    "serve a=runs/nothing": 4,
    "probe . --data nothing --out x": 3,
    "predict . nothing": 3,
    "data check nothing": 3,
    "pretrain tiny --data nothing --out x": 3,
    "pretrain tiny --data . --tokenizer runs/nothing --out x": 4,
    "finetune --data . --init=runs/nothing --out x": 4,
}
WITHOUT_TORCH = """
import json, sys
from beit.cli.verbs import main
for line in json.load(sys.stdin):
    print(main(line.split()), "torch" in sys.modules)
"""


def test_a_wrong_path_is_reported_before_torch_is_loaded(environment, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], input=json.dumps([*WRONG_PATHS]), cwd=tmp_path,
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [f"{code} False" for code in WRONG_PATHS.values()]
    assert done.stderr.count("error: there is no") == len(WRONG_PATHS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "place",
    ["hf:org/name", "timm/name", "https://example.org/a.pth", "own:model", "beit-base", "{here}"],
)
def test_what_may_be_elsewhere_is_left_to_those_who_read_it(place, tmp_path):
    check_options({"init": place.format(here=tmp_path), "data": "s3://bucket/{0..9}.tar"})


def test_options_have_their_names_in_python():
    error = ConfigError("--min-lr is 2", remedy="use --min-lr 0.1, or: beit pretrain --steps 3")
    assert error.__notes__ == ["  in Python: min_lr="]
    assert str(error).endswith("remedy: use --min-lr 0.1, or: beit pretrain --steps 3")
    assert not hasattr(DataError("the list is empty"), "__notes__")


def test_one_is_singular():
    assert [counted(number, "image") for number in (0, 1, 2000)] == [
        "0 images", "1 image", "2,000 images",
    ]  # fmt: skip
    assert counted(3, "class") == "3 classes"


def test_traceback_on_request(class_folders):
    with pytest.raises(DataError):
        cli.main(["--traceback", "pretrain", "tiny", "--data", "nowhere", "--out", "x"])


@pytest.mark.parametrize("module", ["no_such_module", ".relative"])
def test_a_module_that_cannot_be_imported(capsys, module):
    code, _, told = call(capsys, "--import", module, "report", "run")
    assert code == 2
    assert f"the module '{module}' cannot be imported" in told
    assert "PYTHONPATH" in told


ASK = """
import sys
from beit.cli import main
for verb in [[], *([verb] for verb in sys.argv[1:])]:
    try:
        main([*verb, "--help"])
    except SystemExit as left:
        assert not left.code
assert not sys.modules.keys() & {"torch", "numpy", "timm"}, "help must not import what is slow"
"""


def test_help_is_answered_without_torch(environment):
    command = [sys.executable, "-c", ASK, *cli.VERBS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    for verb, run in cli.VERBS.items():
        assert f"  {verb}" in done.stdout
        assert str(run.__doc__) in done.stdout
    for name in {name for recipes in RECIPES.values() for name in recipes}:
        assert f"{name}:" in done.stdout


@pytest.mark.parametrize(("verb", "words"), [("pretrain", "for code of your"),
                                             ("probe", " A run, an artifact, a released"),
                                             ("export", "segmenters), tokens (tok")])  # fmt: skip
def test_help_on_an_option_is_one_paragraph(verb, words, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    assert words in call(capsys, verb, "--help")[1]


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_no_verb_is_a_request_for_help(capsys, arguments):
    code, out, _ = call(capsys, *arguments)
    assert code == 0
    assert out.startswith("usage: beit VERB")


def test_version(capsys):
    import beit

    assert call(capsys, "--version") == (0, f"{beit.__version__}\n", "")


@pytest.fixture
def released(golden, tmp_path, monkeypatch):
    """A pre-trained file as Microsoft released them, of 4 x 4 patches of 16 pixels."""
    monkeypatch.setenv("BEIT_HOME", str(tmp_path / "home"))
    torch.save({"model": golden("mim_shared_rel")["model"]}, tmp_path / "released.pth")
    return tmp_path / "released.pth"


@pytest.mark.parametrize("size", [[], ["--size", "80"], ["--size", "32", "80"]])
def test_fine_tuning_starts_from_a_released_file_at_any_size(
    capsys, caplog, class_folders, tmp_path, released, size
):
    fine = tmp_path / "fine"
    line = ["finetune", "tiny", "--data", class_folders, "--out", fine, "--init", released]
    caplog.set_level(logging.INFO, logger="beit")
    code, _, told = call(capsys, *line, *size, *QUICK)
    assert code == 0, told
    model = read_run_config(fine).model
    sides = [int(side) for side in size[1:]] or [64]
    assert model.size == (sides[0], sides[-1])
    assert (model.patch, model.depth, model.relative_position) == (16, 3, "per-block")
    assert model.mean == (0.5, 0.5, 0.5)
    assert "mean and std 0.5" in caplog.text
    assert call(capsys, "predict", fine, class_folders / "disc")[0] == 0


def test_features_and_conversions_of_a_released_file(capsys, class_folders, tmp_path, released):
    out = tmp_path / "features.npz"
    assert call(capsys, "embed", released, class_folders / "disc", "--out", out)[0] == 0
    assert out.exists()
    folder = tmp_path / "hf"
    code, said, _ = call(capsys, "convert", released, folder, "--to", "hf", "--mean", 0.1, 0.2, 0.3,
                         "--std", 0.4, 0.5, 0.6)  # fmt: skip
    assert (code, said.splitlines()[-1]) == (0, str(folder))
    assert json.loads((folder / "preprocessor_config.json").read_text())["image_mean"] == [
        0.1, 0.2, 0.3,
    ]  # fmt: skip
    code, said, _ = call(capsys, "convert", released, tmp_path / "timm", "--to", "timm")
    assert "lm_head.weight" in said
    code, _, told = call(capsys, "convert", released, folder, "--to", "hf")
    assert code == 7
    assert "nothing is overwritten" in told


def test_pre_training_with_a_released_tokenizer(capsys, class_folders, tmp_path, released):
    """The tokens of a pickle, without a run of `beit tokenizer`."""
    for part in ("encoder", "decoder"):
        shutil.copy(GOLDEN / f"dalle_{part}.pkl", tmp_path / f"{part}.pkl")
    line = ["pretrain", "tiny", "--data", class_folders, "--out", tmp_path / "pre", *QUICK]
    line += ["--tokenizer", tmp_path / "encoder.pkl", "--size", 112, "--patch", 8, "--batch", 4]
    code, _, told = call(capsys, *line)
    assert code == 0, told
    assert (tmp_path / "pre" / "report.html").exists()


def test_hostile_and_other_files_are_refused_by_every_verb(capsys, class_folders, tmp_path):
    page = tmp_path / "weights.pth"
    page.write_text("<!DOCTYPE html><html>not found</html>")
    for line in (
        ["finetune", "tiny", "--data", class_folders, "--out", tmp_path / "o", "--init", page],
        ["predict", page, class_folders],
        ["convert", page, tmp_path / "o"],
        ["pretrain", "tiny", "--data", class_folders, "--out", tmp_path / "o", "--tokenizer", page],
    ):
        code, _, told = call(capsys, *line)
        assert code == 4, told
        assert "weights.pth" in told
        assert "web page" in told
    assert list(tmp_path.iterdir()) == [page]


@pytest.mark.parametrize(
    ("verb", "code", "told"),
    [
        ("raise KeyboardInterrupt", -signal.SIGINT, "interrupted\n"),
        # Twice Ctrl-C: the second comes when all is done.
        ("atexit.register(signal.raise_signal, signal.SIGINT)", 0, ""),
    ],
)
def test_who_interrupts_sees_no_stack(verb, code, told):
    program = (
        "import atexit, signal, sys\nfrom beit import cli\n"
        f"def verb(_):\n    {verb}\n"
        "cli.VERBS['verb'] = verb\nsys.argv = ['beit', 'verb']\ncli.program()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, told)


def test_the_word_of_an_old_launcher(capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert cli.main(["--local-rank=1", "--version"]) == 0
    assert capsys.readouterr().out == f"{beit.__version__}\n"
    monkeypatch.delenv("LOCAL_RANK")
    assert cli.main(["--local-rank=1", "--version"]) == 2
    assert "torchrun" in capsys.readouterr().err
