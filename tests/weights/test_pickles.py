"""Pickled modules and objects of others: their tensors come, and nothing else does."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import enum
import logging
import pathlib
import pickletools
import random
import re
import sys
import types
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from written import (
    called,
    entries,
    legacy,
    program,
    refused,
    save,
    storage,
    tensor,
    text,
    torch_zip,
    whole,
)

from beit.errors import CheckpointError
from beit.weights.containers import recognise
from beit.weights.pickles.imports import IMPORTS
from beit.weights.read import read_contents

GOLDEN = Path(__file__).parent.parent / "golden"


class Conv2d(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(2, 2, 1, 1)), nn.Parameter(torch.randn(2))


class EncoderBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.id_path = nn.Identity()
        self.res_path = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=Conv2d()))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(EncoderBlock(), nn.MaxPool2d(2), nn.Upsample(2), Conv2d())
        self.register_buffer("steps", torch.tensor(7))
        self.register_parameter("nothing", None)


@pytest.fixture
def encoder(monkeypatch):
    """A small module under the names of the published ones, which torch.save writes whole."""
    monkeypatch.setitem(sys.modules, "dall_e", types.ModuleType("dall_e"))
    for name, types_in_it in {"encoder": (EncoderBlock, Encoder), "utils": (Conv2d,)}.items():
        fake = types.ModuleType(f"dall_e.{name}")
        fake.__file__ = __file__
        monkeypatch.setitem(sys.modules, f"dall_e.{name}", fake)
        for kind in types_in_it:
            monkeypatch.setattr(kind, "__module__", f"dall_e.{name}")
            # From 3.13 on, Python forgets where a class begins when its module is set.
            line = kind.__init__.__code__.co_firstlineno - 1
            monkeypatch.setattr(kind, "__firstlineno__", line, raising=False)
            setattr(fake, kind.__name__, kind)
    return Encoder()


@pytest.mark.parametrize("kind", ["torch zip", "torch legacy"])
def test_modules(tmp_path, encoder, kind):
    path = save(tmp_path / "encoder.pkl", encoder, kind)
    assert (b"class EncoderBlock" in path.read_bytes()) == (kind == "torch legacy")
    contents = read_contents(path)
    assert recognise(path.read_bytes()) == kind
    assert contents.wrapper == "dall_e.encoder.Encoder"
    assert contents.tensors.keys() == encoder.state_dict().keys()
    for name, value in encoder.state_dict().items():
        assert torch.equal(contents.tensors[name], value), name
    wrapped = read_contents(save(tmp_path / "wrapped", {"model": encoder}, kind))
    assert wrapped.wrapper == "model"
    assert wrapped.tensors.keys() == encoder.state_dict().keys()


PARTS = {"encoder": (42, "dall_e.encoder.Encoder"), "decoder": (44, "dall_e.decoder.Decoder")}


@pytest.mark.parametrize("part", PARTS)
def test_published_modules(part):
    file = GOLDEN / f"dalle_{part}.pkl"
    contents = read_contents(file)
    assert (len(contents.tensors), contents.wrapper) == PARTS[part]
    assert next(iter(contents.tensors)) == "blocks.input.w"
    with zipfile.ZipFile(file) as archive:
        for number, value in enumerate(contents.tensors.values()):
            assert archive.read(f"{part}/data/{number}") == value.numpy().tobytes()
    assert not any(name.startswith("dall_e") for name in sys.modules)


def imported_by(part):
    """The names that a published file imports."""
    with zipfile.ZipFile(GOLDEN / f"dalle_{part}.pkl") as archive:
        content = archive.read(f"{part}/data.pkl")
    named = [given for code, given, _ in pickletools.genops(content) if code.name == "GLOBAL"]
    return [(part, name.replace(" ", ".")) for name in named]


@pytest.mark.parametrize(
    ("part", "name"),
    [each for each in imported_by("encoder") + imported_by("decoder") if each[1] in IMPORTS],
)
def test_every_name_of_the_table_is_needed(monkeypatch, part, name):
    monkeypatch.delitem(IMPORTS, name)
    refused(GOLDEN / f"dalle_{part}.pkl", f"imports '{re.escape(name)}'")


class Own(dict):
    """A configuration as of EasyDict or OmegaConf: a dict of one's own class."""


class Kind(enum.Enum):
    FINE = "fine"


@dataclasses.dataclass
class Settings:
    lr: float
    where: pathlib.Path
    nested: object = None


def test_what_a_training_of_ones_own_keeps_beside_the_weights(tmp_path):
    """Counters, paths, dates, configurations of any class: inert, named, and no bar to weights."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4])
    keys = {(1, 2): 1, 0.5: 2, None: 3, True: 4, Kind.FINE: 5, b"x": 6}
    settings = Settings(0.1, pathlib.Path("runs"), Own(a=[Kind.FINE, pathlib.Path("b")]))
    settings.nested.update(self=settings)
    saved = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "whole scheduler": scheduler,
        "args": argparse.Namespace(output_dir=pathlib.PosixPath("/o"), seen=Counter({1: 2})),
        "settings": settings,
        "random": random.getstate(),
        "numpy": np.random.RandomState(3).get_state(),
        "generator": np.random.default_rng(3),
        "best": np.float64(0.5),
        "when": datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC),
        "took": datetime.timedelta(3),
        "how": partial(dict, a=2),
        "queue": deque([1, 2]),
        "several": defaultdict(list, a=[1]),
        "keys": keys,
        "types": [torch.float16, torch.device("cpu"), int, complex(1, 2), frozenset({1}), range(3)],
        "others": [
            torch.int8,
            torch.float8_e5m2,
            torch.complex64,
            torch.qint8,
            np.uint8,
            Any,
            re.compile("a"),
            random.Random(0),
        ],
        "hydra": {"_target_": Any, "log": logging.getLogger("training")},
        "scaler": torch.amp.GradScaler("cpu"),
        "activation": partial(nn.functional.gelu),
        "prepared": InterpolationMode.BICUBIC,
        "epoch": 7,
    }
    contents = read_contents(save(tmp_path / "weights", saved, "torch zip"))
    assert contents.wrapper == "model"
    for name, value in model.state_dict().items():
        assert torch.equal(contents.tensors[name], value)
    assert contents.metadata["epoch"] == 7
    assert {"whole scheduler", "args", "settings", "best", "when"} <= set(contents.skipped)


@pytest.mark.parametrize(("tensor", "name", "remedy"), [
    (torch.eye(2).to_sparse(), "_rebuild_sparse_tensor", "to_dense()"),
    (torch.eye(2).to(torch.float8_e4m3fn), "_rebuild_tensor_v3", "float()"),
    (tv_tensors.Mask(torch.eye(2)), "_rebuild_from_type_v2", "as_subclass(torch.Tensor)"),
])  # fmt: skip
def test_tensors_of_other_kinds_are_told_how_to_become_plain(tmp_path, tensor, name, remedy):
    torch.save({"type": tensor.dtype, "a": tensor}, tmp_path / "weights")
    with pytest.raises(CheckpointError, match=name) as caught:
        read_contents(tmp_path / "weights")
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("kind", ["torch zip", "torch legacy"])
def test_whole_modules_of_any_class(tmp_path, kind):
    """Their tensors come under the names of their state dict; their code is never looked for."""

    model = nn.Sequential(OrderedDict(body=nn.Linear(2, 3), norm=nn.BatchNorm1d(3)))
    model.body.register_buffer("transient", torch.zeros(2), persistent=False)
    contents = read_contents(save(tmp_path / "weights", nn.DataParallel(model), kind))
    assert contents.wrapper == "torch.nn.parallel.data_parallel.DataParallel"
    expected = {f"module.{name}": value for name, value in model.state_dict().items()}
    assert contents.tensors.keys() == expected.keys()
    assert all(torch.equal(contents.tensors[name], value) for name, value in expected.items())


@pytest.mark.parametrize("package", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("name", ["scalar", "_reconstruct"])
def test_arrays_of_old_and_new_numpy(tmp_path, package, name):
    array = called(f"{package}.multiarray.{name}", text("any")) + b")b"
    (tmp_path / "weights").write_bytes(torch_zip(program(entries(a=tensor(), b=array))))
    assert read_contents(tmp_path / "weights").skipped == ("b",)


def test_tensors_of_the_first_pytorch(tmp_path):
    old = called("torch._utils._rebuild_tensor", storage(), whole(0), b"K\x04\x85", b"K\x01\x85")
    (tmp_path / "weights").write_bytes(legacy(program(entries(a=old))))
    assert read_contents(tmp_path / "weights").tensors["a"].tolist() == [1, 2, 3, 4]
