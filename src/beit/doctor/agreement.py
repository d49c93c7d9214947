"""Checks in less than a minute, without any file, whether a GPU computes what the CPU computes.

All inputs are drawn from a seed on the CPU, and all results computed twice: attention by every
kernel, a model forward and backward, twelve steps of training, visual tokens in half precision. The
reference is the CPU, in float64 for a single operation, and in float32 for a whole model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor

from beit.batch import MaskedBatch
from beit.config import (
    DiscreteVAEConfig,
    MaskedConfig,
    TrainingConfig,
    VisionTransformerConfig,
)
from beit.doctor import Finding
from beit.masked_patches import MaskedPatches
from beit.models.attention import Backend, attention_by
from beit.models.heads import MaskedImageModel
from beit.objectives.masked import MaskedImageModeling
from beit.tokenizers import build_tokenizer
from beit.training.distributed import Processes
from beit.training.update import Updater

BACKBONE = VisionTransformerConfig(
    size=(64, 64), patch=8, width=64, depth=3, heads=4, hidden=256, absolute_position=True
)
TOKENIZER = DiscreteVAEConfig(size=(32, 32), stride=4, codes=64, width=32, codebook_width=16)
BATCH, STEPS = 8, 12
HEAD_WIDTH = 64
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}
"""Largest error of a single operation, relative to the largest value of its result."""


class Agreement(NamedTuple):
    """One comparison: its error, and the largest error that is tolerated."""

    name: str
    error: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.error <= self.tolerance  # false for an error that is not a number


@contextmanager
def without_tf32() -> Iterator[None]:
    """Compute float32 in full precision: otherwise a GPU rounds to 10 bits in convolutions."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = cuda.allow_tf32, cudnn.allow_tf32
    cuda.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        cuda.allow_tf32, cudnn.allow_tf32 = before


def distance(found: Tensor, expected: Tensor) -> float:
    """The largest error, relative to the largest expected value."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def compare(device: torch.device) -> Iterator[Agreement]:
    """Every comparison of a device with the reference, from single operations to training."""
    with without_tf32():
        for check in (attention, masked_rows, model, tokens, training):
            yield from check(device)


def attention(device: torch.device) -> Iterator[Agreement]:
    """Outputs and gradients of each kernel, including the gradient of a position bias."""
    types = (torch.float32, torch.bfloat16, torch.float16)
    for dtype in types if device.type == "cuda" else types[:2]:
        for tokens in (65, 192, 197):
            names: list[Backend] = ["explicit", "fused"]
            names += ["efficient"] if device.type == "cuda" else []
            for name in names:
                yield Agreement(
                    f"attention, {name}, {str(dtype)[6:]}, {tokens} tokens",
                    _attention_error(name, device, dtype, tokens),
                    TOLERANCE[dtype],
                )


def _attention_error(name: Backend, device: torch.device, dtype: torch.dtype, tokens: int) -> float:
    draw = torch.Generator().manual_seed(0)
    shape = (3, 2, 2, tokens, HEAD_WIDTH)
    values = [*torch.randn(shape, generator=draw), torch.randn(2, *shape[3:4] * 2, generator=draw)]
    pull = torch.randn(shape[1:], generator=draw)

    def run(backend: Backend, where: torch.device, kind: torch.dtype) -> list[Tensor]:
        # Rounded first, so that the reference computes with the very same values.
        tensors = [one.to(dtype).to(where, kind).detach().requires_grad_() for one in values]
        query, key, value, bias = tensors
        out = attention_by(backend, query, key, value, bias)
        out.backward(pull.to(dtype).to(where, kind))
        return [out, *(one.grad for one in tensors if one.grad is not None)]

    found = run(name, device, dtype)
    expected = run("explicit", torch.device("cpu"), torch.float64)
    return max(distance(one, other) for one, other in zip(found, expected, strict=True))


def _masked_model() -> MaskedImageModel:
    torch.manual_seed(0)
    return MaskedImageModel(BACKBONE, TOKENIZER.codes).eval()


def _batch(step: int) -> MaskedBatch:
    draw = torch.Generator().manual_seed(step)
    images = torch.randint(256, (BATCH, 3, *BACKBONE.size), generator=draw, dtype=torch.uint8)
    small = torch.nn.functional.interpolate(images.float(), TOKENIZER.size).to(torch.uint8)
    mask = torch.rand(BATCH, BACKBONE.patches, generator=draw).argsort(dim=1) < 26
    return MaskedBatch(images, small, mask, tuple(map(str, range(BATCH))))


def masked_rows(device: torch.device) -> Iterator[Agreement]:
    """Whether predicting the masked patches alone agrees with predicting all and selecting them."""
    model, batch = _masked_model().to(device), _batch(0)
    images, masked = batch.images.to(device), MaskedPatches.of(batch.mask).to(device)
    with torch.no_grad():
        every = model(images, masked, True).reshape(BATCH, BACKBONE.patches, -1)
        yield Agreement(
            "masked rows only", distance(model(images, masked), masked.select(every)), 1e-4
        )


def model(device: torch.device) -> Iterator[Agreement]:
    """Logits and gradients of a backbone with its head, in float32 and under autocast."""
    batch = _batch(0)

    def run(where: torch.device, dtype: torch.dtype | None) -> list[Tensor]:
        there, masked = _masked_model().to(where), MaskedPatches.of(batch.mask).to(where)
        with torch.autocast(where.type, dtype=dtype, enabled=dtype is not None):
            logits = there(batch.images.to(where), masked)
        logits.float().logsumexp(dim=1).mean().backward()
        gradients = [weight.grad for weight in there.parameters() if weight.grad is not None]
        return [logits, torch.cat([one.flatten() for one in gradients])]

    expected = run(torch.device("cpu"), None)
    for name, dtype, tolerance in (("float32", None, 1e-4), ("bfloat16", torch.bfloat16, 5e-2)):
        pairs = zip(run(device, dtype), expected, strict=True)
        yield Agreement(f"model, {name}", max(distance(*pair) for pair in pairs), tolerance)


def tokens(device: torch.device) -> Iterator[Agreement]:
    """The fraction of visual tokens that differ in float32, and in half precision."""
    torch.manual_seed(0)
    tokenizer, batch = build_tokenizer(TOKENIZER).freeze(), _batch(0)
    expected = tokenizer.encode(batch.token_images)
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    for dtype, tolerance in ((torch.float32, 0.002), (half, 0.05)):
        there = deepcopy(tokenizer).to(device)
        there = there if dtype == torch.float32 else there.in_precision(dtype)
        found = there.encode(batch.token_images.to(device)).cpu()
        differing = float((found != expected).float().mean())
        yield Agreement(f"tokens, {str(dtype)[6:]}", differing, tolerance)


def training(device: torch.device) -> Iterator[Agreement]:
    """The losses of twelve steps of pre-training in float32: forward, backward, clip, AdamW."""

    def losses(where: torch.device) -> Tensor:
        torch.manual_seed(0)
        objective = MaskedImageModeling(_masked_model(), MaskedConfig(), build_tokenizer(TOKENIZER))
        config = TrainingConfig(
            steps=STEPS, batch=BATCH, lr=2e-3, warmup_steps=3, clip=3.0, precision="fp32",
            compile="off",
        )  # fmt: skip
        updater = Updater(objective, config, Processes(0, 1, where), print)
        return torch.stack(
            [updater.update(step, iter([_batch(step)])).terms["loss"] for step in range(STEPS)]
        )

    yield Agreement(
        "training, 12 steps", distance(losses(device), losses(torch.device("cpu"))), 1e-3
    )


def check_agreement(where: torch.device) -> Iterator[Finding]:
    """One finding: whether the GPU agrees, and where it does not; none without a GPU."""
    if where.type != "cuda":
        return
    try:
        made = list(compare(where))
    except RuntimeError as error:
        words = f"{where} cannot compute a small model: {str(error).splitlines()[0]}"
        yield Finding("fail", "numbers", words, "install a torch built for this GPU")
        return
    wrong = [one for one in made if not one.holds]
    if not wrong:
        words = f"{len(made)} comparisons of {where} with the CPU hold"
        yield Finding("ok", "numbers", words)
        return
    words = "; ".join(f"{one.name}: {one.error:.2g} instead of {one.tolerance:g}" for one in wrong)
    change = "other versions of torch or of the driver may help; please report it"
    yield Finding("fail", "numbers", f"{where} disagrees with the CPU: {words}", change)
