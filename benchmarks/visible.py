"""A step of visible-only prediction beside the ordinary masked step on the same images.

The ordinary one hides 75 of 196 patches, as BEiT does; visible-only prediction does so too, and
then hides three quarters, as its recipes do. It is another task with other positions: what is
compared is the work of a step, and not what is learned from it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from beit.batch import MaskedBatch
from beit.config import MaskedConfig, VisibleConfig
from beit.models.heads import MaskedImageModel
from beit.objectives.masked import MaskedImageModeling
from beit.objectives.visible import VisibleOnlyModel, VisibleOnlyPrediction
from beit.tokenizers import build_tokenizer
from beit.tokenizers.base import VisualTokenizer, encoding_precision
from beit.tokenizers.token_cache import TokenCache
from beit.training.optim import Optimizer
from benchmarks.pretraining import CLIP, TRAINING
from benchmarks.race import OURS, Clock, Contest, Contestant
from benchmarks.setting import Setting

PUBLISHED, MOST = 75 / 196, 0.75


def contests(setting: Setting) -> Iterator[Contest]:
    """With tokens that are encoded in every step, and with tokens found on disk."""
    tokenizer = build_tokenizer(setting.tokenizer).to(setting.device)
    for precision in setting.precisions:
        yield _contest(setting, tokenizer, precision, None)
        with tempfile.TemporaryDirectory() as folder:
            yield _contest(setting, tokenizer, precision, Path(folder))


def _contest(
    setting: Setting, tokenizer: VisualTokenizer, precision: str, kept: Path | None
) -> Contest:
    encoding = encoding_precision("auto", setting.device)
    ordinary = setting.pretraining
    seeing = replace(ordinary, absolute_position=True, relative_position="none", mask_token=False)
    light = VisibleConfig(decoder_width=ordinary.width // 3)  # 256 for base, as in the recipes
    cache = None if kept is None else _cache(setting, tokenizer, kept)

    def masked() -> MaskedImageModeling:
        model = MaskedImageModel(ordinary, tokenizer.codes)
        return MaskedImageModeling(model, MaskedConfig(), tokenizer, encoding, cache)

    def visible() -> MaskedImageModeling:
        model = VisibleOnlyModel(seeing, tokenizer.codes, light)
        return VisibleOnlyPrediction(model, light, tokenizer, encoding, cache)

    return Contest(
        case=f"step {precision}" if kept is None else f"step with kept tokens {precision}",
        contestants={
            OURS: _step(setting, masked(), PUBLISHED, precision),
            "visible only, 38% hidden": _step(setting, visible(), PUBLISHED, precision),
            "visible only, 75% hidden": _step(setting, visible(), MOST, precision),
        },
        precision=precision,
    )


def _cache(setting: Setting, tokenizer: VisualTokenizer, folder: Path) -> TokenCache:
    return TokenCache(
        folder,
        {},
        views=1,
        images=setting.batch,
        patches=setting.pretraining.patches,
        codes=tokenizer.codes,
    )


def _batch(setting: Setting, tokenizer: VisualTokenizer, share: float) -> MaskedBatch:
    patches = setting.pretraining.patches
    chance = torch.rand(setting.batch, patches, generator=torch.Generator().manual_seed(1))
    mask: Tensor = chance.argsort(dim=1) < round(share * patches)
    return MaskedBatch(
        setting.images(setting.pretraining.size),
        setting.images(tokenizer.size, seed=1),
        mask.to(setting.device),
        keys=("",) * setting.batch,
        views=torch.tensor([[0, image] for image in range(setting.batch)]),
    )


def _step(
    setting: Setting, objective: MaskedImageModeling, share: float, precision: str
) -> Contestant:
    """All of an objective's step, with the optimizer of our runs."""
    objective.to(setting.device).train()
    assert objective.tokenizer is not None
    batch = _batch(setting, objective.tokenizer, share)
    optimizer = Optimizer(objective, TRAINING).adamw

    def step(_clock: Clock) -> None:
        with setting.autocast(precision):
            loss = objective(batch, 0.0).total
        loss.backward()
        nn.utils.clip_grad_norm_(objective.model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
