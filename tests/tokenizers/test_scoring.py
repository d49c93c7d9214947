"""The code that float32 scores put first is found from half precision too."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from beit.tokenizers import base
from beit.tokenizers.base import best_codes


def case(seed, codes=512, features=64):
    chance = torch.Generator().manual_seed(seed)
    rows = torch.randn(300, features, generator=chance)
    return (
        rows,
        torch.randn(codes, features, generator=chance),
        torch.randn(codes, generator=chance),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("codes", [1, 5, 512])
def test_equals_float32_scores_of_the_same_rows(dtype, biased, codes):
    rows, weight, bias = case(codes, codes)
    rows, bias = rows.to(dtype), bias if biased else None
    expected = F.linear(rows.float(), weight, bias).argmax(dim=1)
    assert torch.equal(best_codes(rows, weight, bias), expected)


def test_half_precision_alone_would_differ():
    rows, weight, bias = case(0)
    half = F.linear(rows.bfloat16(), weight.bfloat16(), bias.bfloat16()).argmax(dim=1)
    assert (half != best_codes(rows.bfloat16(), weight, bias)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_of_equal_codes_wins(dtype):
    rows, weight, _ = case(1, codes=40)
    twice = torch.cat([weight, weight])
    assert (best_codes(rows.to(dtype), twice, None) < 40).all()


def test_many_rows_are_scored_in_parts(monkeypatch):
    rows, weight, bias = case(3)
    whole = best_codes(rows.bfloat16(), weight, bias)
    monkeypatch.setattr(base, "ROWS", 7)
    assert torch.equal(best_codes(rows.bfloat16(), weight, bias), whole)


def test_no_rows():
    _, weight, bias = case(2)
    assert best_codes(torch.empty(0, 64).bfloat16(), weight, bias).shape == (0,)
