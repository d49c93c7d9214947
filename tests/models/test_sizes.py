"""The published sizes have the published numbers of parameters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from beit.config import sized
from beit.errors import ConfigError
from beit.models.heads import Classifier, MaskedImageModel


def count(build) -> int:
    with torch.device("meta"):  # nothing is allocated or drawn
        return sum(parameter.numel() for parameter in build().parameters())


def plain(name: str):
    return replace(sized(name), relative_position="none", absolute_position=True, layer_scale=None)


@pytest.mark.parametrize(
    ("backbone", "parameters"),
    [
        (sized("base"), 91_965_776),
        (plain("base"), 92_089_856),
        (sized("large"), 311_534_016),
    ],
    ids=["base", "plain base", "large"],
)
def test_pretraining_model(backbone, parameters):
    assert count(lambda: MaskedImageModel(backbone, 8192)) == parameters


@pytest.mark.parametrize(
    ("name", "size", "classes", "parameters"),
    [
        ("base", 224, 1000, 86_530_984),
        ("base", 224, 21841, 102_557_713),
        ("base", 384, 1000, 86_744_104),
        ("large", 224, 1000, 304_430_568),
        ("large", 224, 21841, 325_792_593),
        ("large", 384, 1000, 304_998_888),
        ("large", 512, 1000, 305_674_728),
    ],
)
def test_classifier(name, size, classes, parameters):
    backbone = sized(name, size=size)
    backbone = replace(backbone, relative_position="per-block", mask_token=False)
    assert count(lambda: Classifier(backbone, classes)) == parameters


def test_unknown_size_names_the_nearest():
    with pytest.raises(ConfigError, match=r"no size 'bose'.*\n.*'base'"):
        sized("bose")
