"""`torch.hub.load` with the repository as it lies here."""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import beit

ROOT = Path(__file__).parents[1]


def entry(name: str, *args: Any, **options: Any) -> Any:
    return torch.hub.load(str(ROOT), name, *args, source="local", **options)


def listed() -> dict[str, Any]:
    """All that the file defines."""
    return runpy.run_path(str(ROOT / "hubconf.py"))


def test_the_entries_are_these_and_documented() -> None:
    """torch.hub takes whatever can be called and has no leading underscore for an entry."""
    entries = {name: value for name, value in listed().items()
               if callable(value) and not name.startswith("_")}  # fmt: skip
    assert entries.keys() == {"beit", "classifier", "tokenizer"}
    assert all(value.__doc__ for value in entries.values())


def test_each_entry_gives_what_load_gives(trained: Any) -> None:
    classifier = entry("classifier", trained.classifier)
    ours = beit.load(trained.classifier)
    images = torch.randint(256, (2, 3, *ours.size), dtype=torch.uint8)
    assert torch.equal(classifier(images), ours.model(images))
    backbone = entry("beit", str(trained.pretrained))
    maps = backbone.forward_intermediates(images, 1, intermediates_only=True)
    raw = beit.load(trained.pretrained).model.backbone(images).patches
    assert torch.equal(maps[0].flatten(2).transpose(1, 2), raw)
    tokenizer = entry("tokenizer", trained.tokenizer)
    small = images[..., : tokenizer.size[0], : tokenizer.size[1]]
    assert torch.equal(tokenizer.encode(small), beit.load(trained.tokenizer).model.encode(small))


def test_another_kind_of_model_is_refused(trained: Any) -> None:
    with pytest.raises(beit.errors.CheckpointError, match="not a classifier"):
        entry("classifier", trained.pretrained)
    with pytest.raises(beit.errors.CheckpointError, match="not a tokenizer"):
        entry("tokenizer", trained.pretrained)
    with pytest.raises(beit.errors.ConfigError, match="a tokenizer has no backbone"):
        entry("beit", trained.tokenizer)


def test_the_repository_alone_is_enough(trained: Any, tmp_path: Path) -> None:
    """As torch.hub fetches it: this package is not installed, and the folder is another one."""
    code = (
        "import sys, torch\n"
        "import importlib.machinery as m\n"
        "sys.path = [p for p in sys.path if not p.rstrip('/').endswith('/src')]\n"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
        f"model = torch.hub.load({str(ROOT)!r}, 'classifier', {str(trained.classifier)!r}, "
        "source='local')\n"
        "import beit; print(beit.__file__, model.head.out_features)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(ROOT / "src" / "beit" / "__init__.py"), "3"]


def test_the_dependencies_are_what_loading_imports() -> None:
    """torch.hub refuses to load where one is missing; those of training alone are not needed."""
    code = (
        "import sys, beit.inference.predictor\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'beit'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set()
    for file in done.stdout.split():
        for node in ast.parse(Path(file).read_text()).body:
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).split(".")[0])
    imported.add("timm")  # only once a file has the classes of ImageNet, whose names it knows
    assert set(listed()["dependencies"]) == imported - set(sys.stdlib_module_names) - {"beit"}
