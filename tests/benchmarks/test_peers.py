"""The peers compute what ours computes: else a ratio would compare different work."""

from __future__ import annotations

import sys

import pytest
import torch

from beit.models.heads import Classifier, MaskedImageModel
from beit.tokenizers import build_tokenizer
from benchmarks.peers import (
    Absent,
    MaskedTimm,
    dalle_encoder,
    gather,
    in_timm,
    in_transformers,
    normalised,
    official,
)
from benchmarks.setting import Setting
from reference import close, disturb

SETTING = Setting(quick=True, device=torch.device("cpu"), threads=1, rounds=1, batch=2)


@pytest.fixture
def masked():
    torch.manual_seed(0)
    model = MaskedImageModel(SETTING.pretraining, 11)
    disturb(model)
    images, mask = SETTING.images((224, 224)), SETTING.mask(SETTING.pretraining)
    return model.eval(), images, mask, normalised(images, SETTING.pretraining)


@pytest.mark.slow
def test_masked_models(masked):
    model, images, mask, pixels = masked
    expected = model(images, mask)
    assert expected.shape == (2 * 75, 11)
    theirs = in_transformers(model).eval()(pixels, bool_masked_pos=mask).logits[mask]
    close(theirs, expected, 1e-3)
    close(MaskedTimm(model).eval()(pixels, mask), expected, 1e-3)


def test_classifiers():
    torch.manual_seed(0)
    model = Classifier(SETTING.classifying, 5).eval()
    disturb(model)
    images = SETTING.images((224, 224))
    pixels = normalised(images, SETTING.classifying)
    close(in_transformers(model).eval()(pixels).logits, model(images), 1e-3)
    close(in_timm(model).eval()(pixels), model(images), 1e-3)


def test_absent_peers_are_reported(masked, monkeypatch):
    monkeypatch.delenv("BEIT_UNILM", raising=False)
    monkeypatch.setitem(sys.modules, "dall_e", None)
    tokenizer = build_tokenizer(SETTING.tokenizer)
    makers = {"unilm": lambda: official(masked[0]), "dall-e": lambda: dalle_encoder(tokenizer)}
    made, skipped = gather({**makers, "here": lambda: 1})
    assert made == {"here": 1}
    assert "BEIT_UNILM names no checkout" in skipped["unilm"]
    assert "dall-e cannot be imported" in skipped["dall-e"]


def test_checkout_without_the_official_code(masked, monkeypatch, tmp_path):
    monkeypatch.setenv("BEIT_UNILM", str(tmp_path))
    before = list(sys.path)
    with pytest.raises(Absent, match="modeling_pretrain"):
        official(masked[0])
    assert sys.path == before
