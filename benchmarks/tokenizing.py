"""Tokens of images of 112 x 112 pixels: all of them, and those of the masked places."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn

from beit.tokenizers import build_tokenizer
from beit.tokenizers.base import VisualTokenizer, encoding_precision
from benchmarks.peers import dalle_encoder, gather
from benchmarks.race import Contest, Contestant
from benchmarks.setting import TYPES, Setting

EQUAL = "share of ids equal to the published encoder's"


def contests(setting: Setting) -> Iterator[Contest]:
    """The peer scores every place in either case: that is how it is published."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(setting.tokenizer).to(setting.device)
    images = setting.images(tokenizer.size)
    mask = setting.mask(setting.pretraining)
    peers, skipped = gather({"dall-e": lambda: dalle_encoder(tokenizer)})
    theirs: dict[str, Contestant] = {
        name: lambda _clock, encoder=encoder: published_tokens(encoder, images)
        for name, encoder in peers.items()
    }
    fastest = encoding_precision("auto", setting.device)
    precisions = {"fp32": torch.float32}
    if fastest != torch.float32:
        precisions[str(fastest).removeprefix("torch.")] = fastest
    for name, precision in precisions.items():
        ours = tokenizer.in_precision(precision)
        for case, places in (("all places", None), ("masked places", mask)):
            yield Contest(
                case=f"encode {name}, {case}",
                contestants={
                    "beit": lambda _clock, ours=ours, places=places: ours.encode(images, places),
                    **theirs,
                },
                skipped=skipped,
                precision=_name(precision),
                counts_flops=True,
                uncut="dall-e",
            )
        if precision != torch.float32 and not setting.quick:
            fast = compiled(ours)
            yield Contest(
                case=f"encode {name}, masked places, compiled",
                contestants={
                    "beit": lambda _clock, fast=fast: fast.encode(images, mask),
                    **theirs,
                },
                skipped=skipped,
            )
        for encoder in peers.values():
            same = (ours.encode(images) == published_tokens(encoder, images)).float().mean()
            yield Contest(
                case=f"encode {name}, {EQUAL}",
                contestants={"beit": lambda clock, same=float(same): clock.report(same)},
                unit="",
                warm_up=False,
            )


def _name(precision: torch.dtype) -> str:
    return next(name for name, dtype in TYPES.items() if dtype == precision)


def compiled(tokenizer: VisualTokenizer) -> VisualTokenizer:
    """A copy whose trunk is compiled at its first use, as in training on a GPU."""
    fast = copy.deepcopy(tokenizer).freeze()
    fast.compile()
    return fast


@torch.no_grad()
def published_tokens(encoder: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """As the published pre-training asks for them."""
    pixels = 0.8 * (images.float() / 255) + 0.1
    tokens: torch.Tensor = encoder(pixels).argmax(dim=1)
    return tokens.flatten(1)
