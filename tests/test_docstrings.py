"""What public functions take is documented: with more than two parameters, each under `Args:`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import beit

ROOT = Path(beit.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
FEW = 2
"""Parameters that a sentence may explain."""
SECTION = re.compile(r"^Args:\n((?:    .*\n?|\n)+)", re.MULTILINE)
ENTRY = re.compile(r"^    (\w+): \S", re.MULTILINE)


class Function(NamedTuple):
    name: str
    parameters: list[str]
    docstring: str


def public_functions(body: list[ast.stmt], before: str = "") -> Iterator[Function]:
    """Public functions and methods, except for overloads and those that may inherit a docstring."""
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_"):
            continue
        if isinstance(node, ast.ClassDef):
            inherits = bool(node.bases)
            for found in public_functions(node.body, f"{node.name}."):
                if found.docstring or not inherits:
                    yield found
            continue
        if any(ast.unparse(each) == "overload" for each in node.decorator_list):
            continue
        of = node.args
        every = [*of.posonlyargs, *of.args, of.vararg, *of.kwonlyargs, of.kwarg]
        names = [each.arg for each in every if each and each.arg not in {"self", "cls"}]
        yield Function(before + node.name, names, ast.get_docstring(node) or "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_many_parameters_are_each_explained(path: Path) -> None:
    for name, parameters, docstring in public_functions(ast.parse(path.read_text()).body):
        section = SECTION.search(docstring)
        if len(parameters) > FEW:
            assert section, f"{name} has no Args:"
        if section:
            assert ENTRY.findall(section[1]) == parameters, name


def test_the_test_sees_what_is_missing() -> None:
    text = '''
class A:
    def several(self, a, b, c):
        """Do.

        Args:
            a: One.
            c: Three,
                with more.
        """

def plain(a, b, c):
    """Do."""
'''
    several, plain = public_functions(ast.parse(text).body)
    section = SECTION.search(several.docstring)
    assert section
    assert ENTRY.findall(section[1]) == ["a", "c"]
    assert (several.name, plain.name) == ("A.several", "plain")
    assert not SECTION.search(plain.docstring)
