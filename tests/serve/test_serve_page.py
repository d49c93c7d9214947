"""What docs/serve.md says is so: limits, codes, and the snippets against a real server."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from beit.config.serve import ServeConfig
from beit.data.file_types import FORMATS
from beit.serve import http_errors
from served import png, serving, write_artifacts

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text()


def test_the_limits_are_those_of_the_code():
    rows = re.findall(r"^\| `--([a-z-]+)` \| ([0-9,]+)", PAGE, re.MULTILINE)
    assert len(rows) == 12
    defaults = asdict(ServeConfig())
    for name, value in rows:
        assert float(value.replace(",", "")) == defaults[name.replace("-", "_")], name


def test_the_codes_are_those_of_the_code():
    known = {
        reason.code: reason for reason in vars(http_errors).values() if hasattr(reason, "code")
    }
    for status, code in re.findall(r"(\d{3}) `([a-z_]+)`", PAGE):
        assert known[code].status == int(status)


def test_a_refusal_names_the_formats_that_are_read():
    page = Path(http_errors.__file__).with_name("page.html").read_text()
    (shown,) = re.findall(r"^  not_an_image: .*$", page, re.MULTILINE)
    for text in (http_errors.NOT_AN_IMAGE.text, shown):
        words = text.upper().replace(" ", "")
        assert [name for name in FORMATS if name not in words] == []


def test_the_options_exist():
    names = re.findall(r"`--([a-z-]+)", PAGE)
    assert {name.replace("-", "_") for name in names} <= asdict(ServeConfig()).keys()


def test_the_snippets_run(tmp_path, environment, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("image.jpg").write_bytes(png(1))
    place = str(write_artifacts(tmp_path)["classifier"])
    with serving(place, environment=environment) as running:
        (python,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
        exec(python.replace(":8080", f":{running.port}"), {})  # noqa: S102
        assert len(capsys.readouterr().out.splitlines()) == 3
        curls = re.findall(r"^curl .*$", PAGE, re.MULTILINE)
        assert len(curls) == 4
        if shutil.which("curl") is None:
            pytest.skip("there is no curl")
        for curl in curls:
            command = curl.replace(":8080", f":{running.port}")
            done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
            assert "labels" in done.stdout, done.stderr
