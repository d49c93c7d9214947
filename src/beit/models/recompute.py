"""Activations that are not kept for the backward pass, but computed again in it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal

from torch import Tensor
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

KEPT = {
    "aten::mm",
    "aten::addmm",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
}
"""Operators whose results `selective` keeps: the linear layers are nearly all of the work, and
fused attention keeps no scores. Norms, GELU, softmax, residuals and attention that is written out
are computed again."""


def recomputed(
    what: Literal["selective", "blocks"], compute: Callable[..., Tensor], *inputs: Any
) -> Tensor:
    """compute(*inputs), bit for bit: what is computed again draws the same random numbers.

    Args:
        what: `blocks` keeps nothing for the backward pass, `selective` the results of `KEPT`.
        compute: What is computed again there.
        inputs: Its arguments.
    """
    if what == "blocks":
        out: Tensor = checkpoint(compute, *inputs, use_reentrant=False)
    else:
        out = checkpoint(compute, *inputs, use_reentrant=False, context_fn=_contexts)
    return out


def _contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    contexts: tuple[AbstractContextManager[None], AbstractContextManager[None]] = (
        create_selective_checkpoint_contexts(_policy)
    )
    return contexts


def _policy(_context: Any, operator: Any, *_inputs: Any, **_options: Any) -> CheckpointPolicy:
    kept = operator.name().partition(".")[0] in KEPT
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
