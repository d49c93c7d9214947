"""Weights from elsewhere come as they are in the file, or are refused by what is wrong with it."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import tarfile
import tracemalloc
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from written import (
    HARMLESS,
    KINDS,
    entries,
    program,
    refused,
    save,
    storage,
    tensor,
    torch_zip,
    zipped,
)

from beit.errors import ResourceError
from beit.weights import read as module
from beit.weights.containers import recognise
from beit.weights.read import read_contents

GOLDEN = Path(__file__).parent.parent / "golden"


def weights():
    """Tensors of every type that is taken, and of several shapes."""
    numbers = torch.arange(24).reshape(2, 3, 4)
    return {
        **{f"typed.{str(dtype)[6:]}": numbers.to(dtype) for dtype in module.TYPES},
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "cut": numbers[:, 1].float().clone(),
    }


# -- what is taken -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(tmp_path, kind):
    path = save(tmp_path / "weights", weights(), kind)
    contents = read_contents(path)
    assert (recognise(path.read_bytes()), contents.wrapper) == (kind, "")
    assert (contents.metadata, contents.skipped) == ({}, ())
    assert contents.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert contents.tensors.keys() == weights().keys()
    for name, value in weights().items():
        found = contents.tensors[name]
        assert (found.dtype, found.shape) == (value.dtype, value.shape), name
        assert torch.equal(found, value), name
        assert found.is_contiguous(), name


@pytest.mark.parametrize("kind", ["torch zip", "torch legacy"])
def test_views_of_one_storage(tmp_path, kind):
    whole_one = torch.arange(12.0).reshape(3, 4)
    parameter = nn.Parameter(whole_one[:, :2])
    parameter.note = "a parameter with an attribute is pickled in another way"
    saved = OrderedDict(
        whole=whole_one, again=whole_one, turned=whole_one.T, part=whole_one[1:, 2:], own=parameter
    )
    tensors = read_contents(save(tmp_path / "weights", saved, kind)).tensors
    for name, value in saved.items():
        assert torch.equal(tensors[name], value), name
        assert tensors[name].is_contiguous(), name
    tensors["whole"].zero_()
    assert torch.equal(tensors["again"], saved["again"])


def test_bools_are_true_or_false(tmp_path):
    values = tensor(values=storage("torch.BoolStorage"))
    (tmp_path / "weights").write_bytes(torch_zip(program(entries(a=values)), b"\0\1\2\xff"))
    found = read_contents(tmp_path / "weights").tensors["a"]
    assert found.view(torch.uint8).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.pt")), ids=lambda file: file.stem)
def test_same_as_pytorch(file):
    contents, saved = read_contents(file), torch.load(file, weights_only=True)
    saved = saved[contents.wrapper] if contents.wrapper else saved
    tensors = {name: value for name, value in saved.items() if isinstance(value, torch.Tensor)}
    assert contents.tensors.keys() == tensors.keys()
    assert all(torch.equal(contents.tensors[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("kind", ["torch zip", "torch legacy"])
@pytest.mark.parametrize("wrapper", module.WRAPPERS)
def test_wrappers(tmp_path, kind, wrapper):
    saved = {"epoch": 3, wrapper: nn.Linear(2, 1).state_dict()}
    contents = read_contents(save(tmp_path / "weights", saved, kind))
    assert contents.wrapper == wrapper
    assert contents.tensors.keys() == {"weight", "bias"}
    assert contents.metadata == {"epoch": 3}


def test_several_sets_of_weights(tmp_path):
    saved = {name: {"value": torch.tensor(name == "model")} for name in ("model_ema", "model")}
    contents = read_contents(save(tmp_path / "weights", saved, "torch zip"))
    assert contents.wrapper == "model"
    assert contents.tensors["value"]
    assert contents.skipped == ("model_ema",)


NESTED = {
    "wrapper in wrapper": ({"model": {"state_dict": {"a": 1, "b": 2}}}, "model.state_dict"),
    "three deep": ({"net": {"module": {"ema": {"a": 1, "b": 2}}}}, "net.module.ema"),
    "another name": ({"checkpoint": {"a": 1, "b": 2}}, ""),
    "apart": ({"backbone": {"a": 1}, "head": {"b": 2}, "optimizer": {"c": 3}}, ""),
    "teacher first": ({"student": {"a": 3}, "teacher": {"a": 1, "b": 2}}, "teacher"),
}


@pytest.mark.parametrize("case", NESTED)
def test_wrappers_within_wrappers(tmp_path, case):
    saved, wrapper = NESTED[case]

    def with_tensors(value):
        if isinstance(value, dict):
            return {name: with_tensors(each) for name, each in value.items()}
        return torch.tensor(float(value))

    contents = read_contents(save(tmp_path / "weights", with_tensors(saved), "torch zip"))
    assert contents.wrapper == wrapper
    found = {name.split(".")[-1]: float(value) for name, value in contents.tensors.items()}
    assert found == {"a": 1, "b": 2}
    assert contents.other_sets == (("student",) if wrapper == "teacher" else ())


def test_what_lies_beside_the_weights(tmp_path):
    meta = {
        "CLASSES": ("wall", "sky"), "PALETTE": [[120, 120, 120], [6, 230, 230]], "time": "Mon",
        "score": np.float64(0.5), "counts": np.arange(3), "seed": None,
    }  # fmt: skip
    saved = {
        "model": nn.Linear(2, 1).state_dict() | {"version": 2},
        "optimizer": {"state": {0: {"step": 1, "exp_avg": torch.ones(2)}}, "param_groups": []},
        "args": argparse.Namespace(lr=1e-3, device=torch.device("cpu")),
        "scaler": {"scale": 65536.0},
        "size": torch.Size([1, 2]),
        "seen": {"a"},
        "found": defaultdict(None, a=b"bytes"),
        "meta": meta,
        "list": [np.float32(1)],
    }
    contents = read_contents(save(tmp_path / "weights", saved, "torch zip"))
    assert contents.metadata == {
        "scaler": {"scale": 65536.0},
        "size": (1, 2),
        "seen": ["a"],
        "found": {},
        "meta": {name: meta[name] for name in ("CLASSES", "PALETTE", "time", "seed")},
        "model.version": 2,
    }
    assert contents.skipped == (
        "optimizer", "args", "found.a", "meta.score", "meta.counts", "list",
    )  # fmt: skip


def test_metadata_of_safetensors(tmp_path):
    path = tmp_path / "weights"
    safetensors.torch.save_file({"a": torch.ones(1)}, path, metadata={"format": "pt"})
    assert read_contents(path).metadata == {"format": "pt"}


@pytest.mark.parametrize("kind", KINDS)
def test_memory(tmp_path, kind):
    path = save(tmp_path / "weights", {f"{i}": torch.ones(250_000) for i in range(8)}, kind)
    tracemalloc.start()
    read_contents(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.1 * path.stat().st_size


# -- what is refused -----------------------------------------------------------------------------


def _tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return file.getvalue()


def _numpy(save_with):
    file = io.BytesIO()
    save_with(file, np.ones(3))
    return file.getvalue()


OTHERS = {
    "empty": (b"", "is empty"),
    "page": (b"\n<!DOCTYPE html><title>404</title>", "is a web page"),
    "saved page": (b"\xef\xbb\xbf<!-- saved from --><html>", "is a web page"),
    "answer": (b'<?xml version="1.0"?><Error><Code>PublicAccessNotPermitted', "is a web page"),
    "log": (b"--2023-05-01 10:00:00--  https://conversationhub.blob\nHTTP request", "is a text"),
    "table": (b"image,label\na.jpg,cat\n", "is a text, no weights"),
    "json": (b'{"model_type": "beit"}', "is JSON"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS"),
    "gzip": (gzip.compress(HARMLESS), "is compressed"),
    "tar": (_tar(), "is a tar archive"),
    "npy": (_numpy(np.save), "is a NumPy array"),
    "npz": (_numpy(np.savez), "is a NumPy archive"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "is an HDF5 file"),
    "onnx": (b"\x08\x07\x12\x07pytorch", "seems to be an ONNX model"),
    "pickle": (HARMLESS, "is a pickle, but not of torch.save"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(100), "is an image"),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(100), "is an image"),
    "webp": (b"RIFF\x10\0\0\0WEBPVP8 " + bytes(100), "is an image"),
    "tiff": (b"II*\0\x08\0\0\0" + bytes(100), "is an image"),
    "bmp": (b"BM\x10\x20\0\0" + bytes(100), "is an image"),
    "sound": (b"ID3\x04\0" + bytes(100), "is not a weight file: it begins with"),
    "zip": (zipped(("readme.txt", b"hello")), "is a zip archive, but not of torch.save"),
    "empty zip": (zipped(), "is a zip archive, but not of torch.save"),
    "script": (zipped(("a/data.pkl", b""), ("a/code/a.py", b"")), "is a TorchScript archive"),
    "program": (zipped(("a/archive_format", b"pt2")), "is an archive of torch.export"),
    "package": (zipped(("a/.data/extern_modules", b"")), "is a package of PyTorch"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_files(tmp_path, other):
    content, problem = OTHERS[other]
    path = tmp_path / "beit_base.pth"  # the name says nothing
    path.write_bytes(content)
    refused(path, problem)


def test_no_files(tmp_path, monkeypatch):
    refused(tmp_path, "is a folder")
    refused(tmp_path / "gone", "is not a file")
    path = save(tmp_path / "weights", weights(), "torch zip")
    monkeypatch.setattr(module, "FILE_BYTES", path.stat().st_size - 1)
    refused(path, "is larger than")


@pytest.mark.parametrize(
    ("error", "problem"),
    [(PermissionError(13, "not permitted"), "not permitted"), (MemoryError(), "memory")],
)
def test_files_that_cannot_be_opened(tmp_path, monkeypatch, error, problem):
    def fail(path):
        raise error

    path = save(tmp_path / "weights", weights(), "torch zip")
    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(ResourceError, match=problem) as caught:
        read_contents(path)
    assert str(path) in caught.value.problem


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 4, 9, 30, 300, -300, -1])
def test_cut_files(tmp_path, kind, size):
    path = save(tmp_path / "weights", weights(), kind)
    path.write_bytes(path.read_bytes()[:size])
    refused(path)


@pytest.mark.parametrize("kind", KINDS)
def test_something_behind(tmp_path, kind):
    path = save(tmp_path / "weights", weights(), kind)
    path.write_bytes(path.read_bytes() + b"\0" * 70_000)
    refused(path, "cut|has \\d+ bytes, where|behind")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_numbers_that_are_not_finite(tmp_path, kind, number, dtype):
    saved = {"good": torch.ones(9), "bad.one": torch.tensor([1, number], dtype=dtype)}
    refused(save(tmp_path / "weights", saved, kind), "values in bad.one that are not finite")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.complex64, torch.float8_e4m3fn])
def test_other_types(tmp_path, kind, dtype):
    path = save(tmp_path / "weights", {"odd": torch.ones(3).to(dtype)}, kind)
    refused(path, "holds 'odd' as|holds odd as|imports '.*ComplexFloatStorage'|_rebuild_tensor_v3")


@pytest.mark.parametrize(
    ("saved", "problem"),
    [
        (torch.ones(3).to_sparse(), "imports 'torch._utils._rebuild_sparse_tensor'"),
        (torch.ones(3, device="meta"), "imports 'torch._utils._rebuild_meta_tensor_no_storage'"),
        (torch.ones(1).expand(10, 10), "describes odd as|larger than"),
        (torch.ones(1).expand(10**6, 10**6), "larger than the file"),
    ],
)
def test_other_tensors(tmp_path, saved, problem):
    refused(save(tmp_path / "weights", {"odd": saved}, "torch zip"), problem)


def test_far_ends_of_a_storage_again_and_again(tmp_path):
    """Small tensors, but each takes the whole storage to be read."""
    saved = {f"{number}": torch.ones(10_000)[::9_999] for number in range(3)}
    assert len(read_contents(save(tmp_path / "own", saved, "torch zip")).tensors) == 3
    saved = dict.fromkeys(map(str, range(60)), saved["0"])
    refused(save(tmp_path / "shared", saved, "torch zip"), "larger than the file")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["", "a b", "../a", ".a", "a..b", "ä", "a\n", "a" + ".a" * 32])
def test_other_names(tmp_path, kind, name):
    path = save(tmp_path / "weights", {name: torch.ones(1)}, kind)
    refused(path, "of the name|under what is not a name")


@pytest.mark.parametrize(
    "saved",
    [{"optimizer": {"state": {"a": torch.ones(1)}}}, [torch.ones(1)], {0: torch.ones(1)}, {}, 5],
)
def test_no_named_tensors(tmp_path, saved):
    refused(save(tmp_path / "weights", saved, "torch zip"), "holds no tensors by name")
