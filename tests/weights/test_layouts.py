"""The three kinds of weight files: every strange or damaged one is refused, and only so."""

from __future__ import annotations

import json
import random
import re
import struct
import zipfile

import pytest
import safetensors.torch
import torch
from written import (
    HARMLESS,
    KINDS,
    VALUES,
    entries,
    legacy,
    program,
    refused,
    save,
    text,
    torch_zip,
    zipped,
)

from beit.errors import CheckpointError
from beit.weights import containers
from beit.weights.read import NAME, read_contents


def strange_zip(change):
    """A good archive, changed."""
    content = torch_zip(HARMLESS)
    return content.replace(*change) if isinstance(change, tuple) else change(content)


ZIPS = {
    "values": ((VALUES, VALUES[::-1]), "damaged member"),
    "local name": ((b"a/data.pkl", b"b/data.pkl", 1), "damaged member"),
    "both names": ((b"a/data.pkl", b"b/data.pkl"), "does not write"),
    "local mark": ((b"le" + b"PK\3\4", b"le" + b"PK\3\5"), "damaged member: 'a/data/0'"),
    "directory mark": ((VALUES + b"PK\1\2", VALUES + b"PK\1\3"), "no end"),
    "a name twice": (
        lambda _: zipped(*[("a/data.pkl", HARMLESS), ("a/data/0", VALUES)] * 2), "does not write",
    ),
    "compressed": (
        lambda _: zipped(("a/data.pkl", HARMLESS), compression=zipfile.ZIP_DEFLATED),
        "a compressed member",
    ),
    "in front": (lambda content: content[:4] + content, "damaged member"),
    "no values": (lambda _: zipped(("a/data.pkl", HARMLESS)), "damaged: KeyError"),
    "fewer values": (lambda _: torch_zip(HARMLESS, VALUES[4:]), "12 bytes for the 4 values"),
    "more values": (lambda _: torch_zip(HARMLESS, VALUES * 2), "32 bytes for the 4 values"),
    "behind the pickle": (lambda _: torch_zip(HARMLESS + b"."), "behind its pickle"),
    "byte order": (
        lambda _: zipped(("a/data.pkl", HARMLESS), ("a/data/0", VALUES), ("a/byteorder", b"big")),
        "big-endian",
    ),
    "unknown member": (
        lambda _: zipped(("a/data.pkl", HARMLESS), ("a/data/0", VALUES), ("a/run.py", b"")),
        "does not write: 'a/run.py'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("strange", ZIPS)
def test_strange_archives(tmp_path, strange):
    change, problem = ZIPS[strange]
    (tmp_path / "weights").write_bytes(strange_zip(change))
    refused(tmp_path / "weights", problem)


def entry_of(content, number):
    """Where a member stands in the directory of an archive."""
    return [found.start() for found in re.finditer(b"PK\1\2", content)][number]


def test_members_over_each_other(tmp_path):
    inner = zipped(("a/data/1", VALUES)).split(b"PK\1\2")[0]
    members = ("a/data.pkl", HARMLESS), ("a/data/0", inner), ("a/data/1", VALUES)
    content = bytearray(zipped(*members))
    place = entry_of(content, 2) + 42
    content[place : place + 4] = struct.pack("<I", content.index(inner))
    (tmp_path / "weights").write_bytes(content)
    refused(tmp_path / "weights", "damaged member: 'a/data/1'")


def test_two_sizes(tmp_path):
    content = bytearray(torch_zip(HARMLESS))
    place = entry_of(content, 2) + 20
    assert content[place : place + 8] == struct.pack("<II", 16, 16)
    content[place] = 12
    (tmp_path / "weights").write_bytes(content)
    refused(tmp_path / "weights", "damaged member: 'a/data/0'")


def test_a_pickle_that_is_too_long(tmp_path, monkeypatch):
    (tmp_path / "weights").write_bytes(torch_zip(HARMLESS))
    monkeypatch.setattr(containers, "PICKLE_BYTES", len(HARMLESS) - 1)
    refused(tmp_path / "weights", "pickle of more than")


LEGACIES = {
    "system": (legacy(HARMLESS, system=program(entries(little_endian=b"\x89"))), "unknown version"),
    "no system": (legacy(HARMLESS, system=program(b"}")), "damaged: KeyError"),
    "protocol": (legacy(HARMLESS).replace(b"M\xe9\x03", b"M\xea\x03"), "unknown version"),
    "count": (legacy(HARMLESS, values=struct.pack("<q", 5) + VALUES), "is cut or damaged"),
    "cut": (legacy(HARMLESS, values=struct.pack("<q", 4) + VALUES[:-1]), "is cut or damaged"),
    "no count": (legacy(HARMLESS, values=b""), "damaged: error"),
    "behind": (legacy(HARMLESS) + b"\0", "something behind"),
    "keys": (legacy(HARMLESS, keys=program(b"]" + text("1") + b"a")), "lists other storages"),
    "twice": (legacy(HARMLESS, keys=program(b"](" + text("0") * 2 + b"e")), "lists other storages"),
}  # fmt: skip


@pytest.mark.parametrize("strange", LEGACIES)
def test_strange_legacy_files(tmp_path, strange):
    content, problem = LEGACIES[strange]
    (tmp_path / "weights").write_bytes(content)
    refused(tmp_path / "weights", problem)


def headed(header, values=VALUES):
    """A safetensors file with a header as JSON or as it is."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + values


def entry(start=0, stop=16, shape=(4,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


HEADERS = {
    "no JSON": (headed(b'{"a": '), "is damaged"),
    "too deep": (headed(b'{"a":' + b"[" * 100_000), "is damaged"),
    "no object within": (headed({"a": 1}), "is damaged"),
    "no type": (headed({"a": {"shape": [4], "data_offsets": [0, 16]}}), "is damaged"),
    "a name twice": (headed(b'{"a": 1, "a": 2}'), "stands twice in one object"),
    "a gap": (headed({"a": entry(4, 16, (3,))}), "where it cannot be"),
    "a gap between": (headed({"a": entry(0, 4, (1,)), "b": entry(8, 16, (2,))}), "where it cannot"),
    "overlap": (headed({"a": entry(0, 8, (2,)), "b": entry(4, 16, (3,))}), "where it cannot be"),
    "backwards": (headed({"a": entry(0, -4, (1,))}), "where it cannot be"),
    "another size": (headed({"a": entry(shape=(5,))}), "where it cannot be"),
    "fewer bytes": (headed({"a": entry()}, VALUES[4:]), "has \\d+ bytes, where its header says"),
    "more bytes": (headed({"a": entry()}, VALUES * 2), "has \\d+ bytes, where its header says"),
    "negative shape": (headed({"a": entry(shape=(-2, -2))}), "by sizes"),
    "broken shape": (headed({"a": entry(shape=(4.0,))}), "by sizes"),
    "shape of texts": (headed({"a": entry(shape=("a", 10**12))}), "is damaged|by sizes"),
    "huge shape": (headed({"a": entry(shape=(2**62, 4))}), "by sizes"),
    "unknown type": (headed({"a": entry(dtype="F8_E5M2")}), "holds 'a' as 'F8_E5M2'"),
    "metadata": (headed({"__metadata__": {"a": 1}, "a": entry()}), "metadata that are not strings"),
    "metadata list": (headed({"__metadata__": [], "a": entry()}), "is damaged"),
    "long header": (struct.pack("<Q", 10**6) + b"{}", "is cut: its header has 1000000 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("strange", HEADERS)
def test_strange_safetensors(tmp_path, strange):
    content, problem = HEADERS[strange]
    (tmp_path / "weights").write_bytes(content)
    refused(tmp_path / "weights", problem)


def test_a_header_that_is_too_long(tmp_path, monkeypatch):
    (tmp_path / "weights").write_bytes(headed({"a": entry()}))
    monkeypatch.setattr(containers, "HEADER_BYTES", 10)
    refused(tmp_path / "weights", "its header has")


# -- damage of any kind --------------------------------------------------------------------------


def mutated(content, chance):
    """Some bytes changed, taken out, put in or repeated."""
    content = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place, length = chance.randrange(len(content)), chance.randint(1, 8)
        match chance.randrange(5):
            case 0:
                content[place] ^= 1 << chance.randrange(8)
            case 1:
                content[place : place + length] = chance.randbytes(length)
            case 2:
                del content[place : place + length]
            case 3:
                content[place:place] = chance.randbytes(length)
            case 4:
                content[place:place] = content[place : place + 20 * length]
    return bytes(content)


@pytest.fixture
def good(tmp_path):
    """Good files of every kind; the pickle is put into an archive with right checksums later."""
    saved = {"a.weight": torch.linspace(0, 1, 6).reshape(2, 3), "a.bias": torch.arange(2)}
    files = {kind: save(tmp_path / "good", saved, kind).read_bytes() for kind in KINDS}
    return files | {"pickle": HARMLESS}


@pytest.mark.parametrize("kind", [*KINDS, "pickle"])
def test_any_damage(tmp_path, good, kind):
    path, taken = tmp_path / "weights", 0
    for seed in range(400):
        content = mutated(good[kind], random.Random(seed))
        path.write_bytes(torch_zip(content) if kind == "pickle" else content)
        try:
            contents = read_contents(path)
        except CheckpointError:
            refused(path)
            continue
        taken += 1
        assert all(NAME.fullmatch(name) for name in contents.tensors), seed
        assert all(value.isfinite().all() for value in contents.tensors.values()), seed
        if kind == "safetensors":  # what we take, the library takes too, and reads the same
            theirs = safetensors.torch.load(path.read_bytes())
            assert contents.tensors.keys() == theirs.keys(), seed
            assert all(torch.equal(contents.tensors[name], theirs[name]) for name in theirs), seed
    assert taken < 200
