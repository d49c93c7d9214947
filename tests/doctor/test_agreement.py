"""The comparisons of a device with the CPU: they hold here, and find what is wrong."""

from __future__ import annotations

import torch

from beit.doctor import agreement
from beit.doctor.agreement import Agreement, check_agreement, compare

CPU = torch.device("cpu")


def test_the_cpu_agrees_with_the_reference(monkeypatch):
    found = list(compare(CPU))
    assert {one.name.partition(",")[0] for one in found} == {
        "attention", "masked rows only", "model", "tokens", "training",
    }  # fmt: skip
    assert all(one.holds for one in found), found
    single = [one for one in found if one.name.startswith("attention") and "float32" in one.name]
    assert max(one.error for one in single) < 1e-5  # the tolerance is for other hardware


def test_a_kernel_that_forgets_the_bias_is_found(monkeypatch):
    right = agreement.attention_by

    def wrong(backend, query, key, value, bias):
        return right(backend, query, key, value, bias if backend == "explicit" else 0 * bias)

    monkeypatch.setattr(agreement, "attention_by", wrong)
    for one in agreement.attention(CPU):
        assert one.holds == ("explicit" in one.name), one


def test_an_error_that_is_not_a_number_does_not_hold():
    assert not Agreement("broken", float("nan"), 1.0).holds


def test_findings(monkeypatch):
    assert list(check_agreement(CPU)) == []
    gpu = torch.device("cuda")
    for error, level in ((0.0, "ok"), (1.0, "fail")):
        made = [Agreement("training, 12 steps", error, 0.5)]
        monkeypatch.setattr(agreement, "compare", lambda _, made=made: iter(made))
        (finding,) = check_agreement(gpu)
        assert finding.level == level
    assert "training, 12 steps: 1 instead of 0.5" in finding.found
    monkeypatch.setattr(agreement, "compare", lambda _: iter([1 / 1, broken()]))
    (finding,) = check_agreement(gpu)
    assert finding.level == "fail"
    assert "no kernel image" in finding.found


def broken():
    raise RuntimeError("CUDA error: no kernel image\nmore")
