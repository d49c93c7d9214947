"""The doctor: what it says of this machine is so, and faults that are made are found."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from inspect import signature
from pathlib import Path

import pytest
import torch
from PIL import Image

from beit.cli import doctor as doctor_verb
from beit.cli import main
from beit.config.serve import ServeConfig
from beit.data.file_types import FORMATS
from beit.doctor import Finding, environment, must_hold
from beit.doctor.images import check_images
from beit.errors import DataError, ResourceError
from children import become_nobody, in_a_child

Usage = namedtuple("Usage", "total used free")


def levels(findings):
    return {one.subject: one.level for one in findings}


def test_the_command_examines_machine_and_images(capsys, class_folders, tmp_path):
    line = ["doctor", "--data", str(class_folders), "--out", str(tmp_path / "runs"),
            "--skip-compile", "--format", "json"]  # fmt: skip
    assert main(line) == 0
    told = json.loads(capsys.readouterr().out)
    found = {one["subject"]: one for one in told["findings"]}
    assert told["level"] == "warn"  # few images
    assert found["torch"]["found"].startswith(torch.__version__.partition("+")[0])
    assert found["decoder"]["level"] == "ok"
    assert found["disk"]["level"] in ("ok", "warn")
    assert "all 36" in found["images"]["found"]
    assert found["classes"]["found"] == "3, of 12 images each"
    assert found["advice"]["level"] == "warn"
    assert found["advice"]["change"] == found["start"]["change"]  # few images, three channels
    assert found["start"]["change"].startswith("beit finetune --data ")  # it has classes
    assert not any(one["about"] == "images" and one["level"] == "fail" for one in found.values())
    assert list(tmp_path.iterdir()) == []  # nothing is left behind, and `runs` is not made
    assert main([*line[:-2]]) == 0
    assert "-> " in capsys.readouterr().out


def test_what_fails_decides_the_exit_code():
    good, bad = Finding("ok", "x", ""), Finding("fail", "disk", "")
    images = Finding("fail", "duplicate", "", "", "images")
    must_hold([good])
    with pytest.raises(ResourceError, match=r"disk[\s\S]*the advice on the lines marked fail"):
        must_hold([good, images, bad])
    with pytest.raises(DataError, match="duplicate"):
        must_hold([good, images])


def test_bad_options_and_places(capsys, tmp_path):
    assert main(["doctor", "--port", "70000"]) == 2
    (tmp_path / "file").write_text("")
    [found] = environment.check_disk(str(tmp_path / "file"))
    assert (found.level, "it is a file" in found.found) == ("fail", True)


def test_help_loads_no_torch():
    code = "import sys; from beit.cli import main\ntry: main(['doctor', '--help'])\n"
    code += "except SystemExit: pass\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
    assert "doctor replay" in done.stdout


def test_the_commands_of_the_page(capsys, class_folders, tmp_path, monkeypatch):
    shutil.copytree(class_folders, tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        environment, "compiler_problem", lambda _: "not tried here"
    )  # it takes a minute
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()
    lines = re.findall(r"^beit (doctor.*)$", page, re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        assert main(line.split()) == 0
        told = capsys.readouterr().out
        assert "torch.compile" in told or "--skip-compile" in line
    assert json.loads(told)["level"] == "warn"


def test_the_port_is_that_of_the_server():
    assert signature(doctor_verb.examine).parameters["port"].default == ServeConfig().port


def test_a_port_that_is_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert [one.level for one in environment.check_port(port, "x")] == ["warn"]
    assert [one.level for one in environment.check_port(port, "x")] == ["ok"]


def test_limits_of_the_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(environment.resource, "getrlimit", lambda _: (128, 4096))
    [files] = environment.check_open_files()
    assert files.level == "fail"
    monkeypatch.setattr(
        environment.shutil, "disk_usage", lambda _: Usage(64 * 2**20, 0, 64 * 2**20)
    )
    assert levels(environment.check_memory())["shared memory"] == "warn"
    [disk] = environment.check_disk(str(tmp_path))
    assert (disk.level, "make room" in disk.change) == ("warn", True)
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    monkeypatch.setattr(environment, "CGROUP", tmp_path)
    assert environment.quota() == 1.5
    monkeypatch.setattr(environment.torch, "get_num_threads", lambda: 64)
    [threads] = environment.check_threads()
    assert threads.level == "warn"
    assert "OMP_NUM_THREADS=" in threads.change


def test_a_library_that_is_too_old_or_missing(monkeypatch):
    lines = ["torch>=99", "no-such-library>=1", "numpy>=1", 'alsonot>=2; extra == "more"']
    monkeypatch.setattr(environment.metadata, "requires", lambda _: lines)
    found = {one.subject: one for one in environment.check_versions()}
    assert found["torch"].level == found["no-such-library"].level == "fail"
    assert 'pip install "torch>=99"' in found["torch"].change
    assert found["numpy"].level == "ok"
    assert "alsonot" not in found


def test_every_extra_of_the_package_is_told_of():
    told = {one.subject.removeprefix("extra ") for one in environment.check_extras()}
    assert told == set(environment.metadata.metadata("beit").get_all("Provides-Extra"))
    assert all(one.level == "ok" for one in environment.check_extras())


def test_what_an_extra_lacks_is_added_to_what_is_installed(monkeypatch):
    """By a command that needs no index to have this package, as `--upgrade` would."""
    lines = ['no-such-library>=1; extra == "serve"']
    monkeypatch.setattr(environment.metadata, "requires", lambda _: lines)
    found = {one.subject: one for one in environment.check_extras()}
    assert found["extra serve"].change == 'if you need it: pip install "beit[serve]"'


def test_the_decoder_is_tried_on_every_format():
    [found] = environment.check_decoder()
    assert found.level == "ok"
    assert found.found.startswith(", ".join(FORMATS))


def test_a_decoder_that_gives_other_pixels(monkeypatch):
    monkeypatch.setattr(
        environment, "decode", lambda data, channels: torch.zeros(24, 32, 3).byte().numpy()
    )
    [found] = environment.check_decoder()
    assert (found.level, "other pixels" in found.found) == ("fail", True)


def test_a_driver_whose_gpu_torch_cannot_use(monkeypatch):
    monkeypatch.setattr(environment.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(environment, "_driver", lambda: "driver 1, which runs CUDA up to 9.0")
    for built, words in ((None, "without CUDA"), ("13.0", "newer driver")):
        monkeypatch.setattr(environment.torch.version, "cuda", built)
        [found] = environment.check_gpus()
        assert found.level == "fail"
        assert words in found.found + found.change
    monkeypatch.setattr(environment, "_driver", lambda: None)
    assert [one.level for one in environment.check_gpus()] == ["warn"]


def test_a_compiler_that_is_missing_or_fails(monkeypatch):
    monkeypatch.setattr(environment, "compiler_problem", lambda _: "there is no C compiler")
    [found] = environment.check_compile()
    assert "no C compiler" in found.found
    monkeypatch.setattr(environment, "compiler_problem", lambda _: "")
    monkeypatch.setattr(environment, "COMPILED", "raise OSError('broken on {device}')")
    [found] = environment.check_compile()
    assert "OSError: broken on" in found.found
    assert found.level == ("fail" if torch.cuda.is_available() else "warn")


def test_what_the_system_refuses_is_a_finding_like_others(monkeypatch, tmp_path):
    """Else all that was found before would not be shown."""
    monkeypatch.setattr(environment, "compiler_problem", lambda _: "")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    [found] = environment.check_compile()
    assert "No such file or directory" in found.found

    def refused() -> None:
        become_nobody(tmp_path)
        [found] = environment.check_disk(str(tmp_path / "closed" / "a" / "b"))
        assert (found.level, found.subject) == ("fail", "disk")
        assert "Permission denied" in found.found

    (tmp_path / "closed" / "a").mkdir(parents=True)
    (tmp_path / "closed").chmod(0o700)
    assert in_a_child(refused) == 0


@pytest.mark.slow
def test_compiling_here():
    [found] = environment.check_compile()
    assert found.level == "ok"


def test_faults_of_images(class_folders, tmp_path):
    for part in ("train", "val"):
        shutil.copytree(class_folders, tmp_path / part)
    (tmp_path / "train" / "disc" / "broken.png").write_bytes(b"rubbish")
    found = list(check_images(str(tmp_path), channels=1, sample=1000, size=64))
    told = levels(found)
    assert told["in two parts"] == told["unreadable"] == "fail"
    assert told["channels"] == "warn"  # colours would go
    assert told["sizes"] == "warn"  # 40 pixels would be enlarged to 64
    assert all(one.about == "images" for one in found)
    assert [one.level for one in check_images(str(tmp_path / "none"), channels=3, sample=9,
                                                size=0)] == ["fail"]  # fmt: skip


def test_a_sample_is_said_to_be_one(tmp_path):
    for number in range(30):
        Image.new("L", (50, 40), number).save(tmp_path / f"{number}.png")
    found = {one.subject: one for one in check_images(str(tmp_path), channels=3, sample=10,
                                                        size=0)}  # fmt: skip
    assert "10 of 30" in found["images"].found
    assert "--channels 1" in found["channels"].change


def test_its_advice_runs_as_printed(tmp_path, capsys):
    """A command with a time, in the words of a shell."""
    place = tmp_path / "grey images"
    place.mkdir()
    for number in range(30):
        Image.new("L", (50, 40), number).save(place / f"{number}.png")
    found = {one.subject: one for one in check_images(str(place), channels=1, sample=10, size=0)}
    advice, start = shlex.split(found["advice"].change), shlex.split(found["start"].change)
    assert advice[:4] == ["beit", "pretrain", "--data", str(place)]
    assert advice[-4:] == ["--time", "1h", "--channels", "1"]
    assert start[:2] == ["beit", "pretrain"]
    assert "beit-base-22k" in start
    with pytest.raises(SystemExit):  # every option is known: the help of just these words
        main([*advice[1:], "--help"])
    assert "--time" in capsys.readouterr().out


def test_the_doctor_takes_the_level_of_the_classes(tmp_path, class_folders, capsys):
    for site in ("north", "south"):
        shutil.copytree(class_folders, tmp_path / "sites" / site)
    words = ["doctor", "--data", str(tmp_path / "sites"), "--skip-compile", "--format", "json"]
    for level, number in (("1", 2), ("2", 3)):
        assert main([*words, "--class-level", level]) in (0, 3, 6)  # 3: copies in two classes
        told = json.loads(capsys.readouterr().out)["findings"]
        assert f"{number}, of " in str(
            [one["found"] for one in told if one["subject"] == "classes"]
        )
