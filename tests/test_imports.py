"""Imports point one way, as the design draws it, and what must be light stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import beit

ROOT = Path(beit.__file__).parent
LINES = [
    {"__init__", "__main__"},
    {"cli"},
    {"studies", "doctor"},
    {"serve", "ray"},
    {"tasks"},
    {"report", "evaluation", "training", "recipes", "inference"},
    {"weights"},
    {"objectives"},
    {"data", "tokenizers"},
    {"models", "masking", "batch", "visualize"},
    {"config"},
    {"claim"},
    {
        "hardware",
        "jitter",
        "atomic_io",
        "rng",
        "json_object",
        "process",
    },
    {"errors"},
    {"terminal", "masked_patches"},
]
LINE = {unit: number for number, line in enumerate(LINES) for unit in line}
ONLY = {
    "training": {
        "training",
        "objectives.base",
        "batch",
        "rng",
        "config",
        "errors",
        "hardware",
        "atomic_io",
        "claim",
        "json_object",
        "terminal",
        "process",
    },
    "models": {"models", "config", "errors", "terminal", "masked_patches", "hardware"},
}
# A page says what a run measured, so it reads with the evaluation's own measures and the run's own
# folder; and it names the options that differ from the recipe. None of these import the report.
BESIDE = {
    "report": {"evaluation", "training.run_folder", "recipes"},
}
LIGHT = {"atomic_io", "cli", "config", "errors", "process", "recipes", "terminal"}
LIGHT_LIBRARIES = {"tyro", "rich", *sys.stdlib_module_names}
FILES = sorted(ROOT.rglob("*.py"))


class Import(NamedTuple):
    module: str
    at_module_level: bool
    for_types: bool


def imports(file: Path) -> Iterator[Import]:
    """Every import of a file, wherever it stands."""

    def walk(node: ast.AST, module_level: bool, for_types: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, module_level, for_types)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} uses a relative import"
            assert node.module is not None
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                path = ROOT.parent / name.replace(".", "/")
                known = path.is_dir() or path.with_suffix(".py").is_file()
                yield Import(name if known else node.module, module_level, for_types)
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, module_level and not function, for_types or typing_only)

    yield from walk(ast.parse(file.read_text()), True, False)


def unit_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def may_import(unit: str, found: Import) -> bool:
    inner = found.module.removeprefix("beit").removeprefix(".") or "__init__"
    other = inner.split(".")[0]
    assert other in LINE, f"give {found.module} a line in the order of imports"
    if inner == "__init__":
        return unit == "__main__" or not found.at_module_level  # for the version number
    if unit in ONLY:
        return any(inner == allowed or inner.startswith(f"{allowed}.") for allowed in ONLY[unit])
    beside = BESIDE.get(unit, set())
    if inner in beside or other in beside:
        return True
    return unit == other or LINE[unit] < LINE[other]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_down(file):
    unit = unit_of(file)
    assert unit in LINE, f"give {unit} a line in the order of imports"
    own = [found for found in imports(file) if found.module.split(".")[0] == "beit"]
    wrong = [found.module for found in own if not may_import(unit, found)]
    assert not wrong, f"{unit} may not import {wrong}"


def test_no_files_import_each_other():
    """Not in functions either; only the face of a package may load its own files when asked."""
    graph = {}
    for file in FILES:
        module = ".".join(["beit", *file.relative_to(ROOT).with_suffix("").parts])
        module = module.removesuffix(".__init__")
        graph[module] = {
            found.module
            for found in imports(file)
            if not found.for_types
            and found.module != module
            and not (found.module.startswith(f"{module}.") and not found.at_module_level)
        }
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("file", [file for file in FILES if unit_of(file) in LIGHT], ids=str)
def test_light_modules_import_nothing_heavy(file):
    for found in imports(file):
        if found.at_module_level and not found.for_types:
            top, _, rest = found.module.partition(".")
            light = rest.split(".")[0] in LIGHT if top == "beit" else top in LIGHT_LIBRARIES
            assert light, f"{found.module} is heavy"


LIGHT_UNITS = [f"beit.{name}" for name in sorted(LIGHT) if list(ROOT.glob(f"{name}*"))]


@pytest.mark.parametrize(
    ("loaded", "left"),
    [
        (LIGHT_UNITS, {"torch", "numpy", "jinja2"}),
        # They take seconds to import, at every start of every process.
        (["beit.tasks", "beit.inference.predictor"], {"timm", "torchvision", "transformers"}),
    ],
)
def test_what_must_start_soon_leaves_heavy_libraries_out(loaded, left):
    code = f"import sys, {', '.join(loaded)}; print(sys.modules.keys() & {left})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
