"""A step of masked image modeling, whole and by part, and the head with its loss alone."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.utils import ModelEmaV2
from torch import Tensor, nn

from beit.config import MaskedConfig, TrainingConfig
from beit.config.training import Recompute
from beit.models.heads import MaskedImageModel
from beit.objectives.masked import MaskedImageModeling
from beit.tokenizers import build_tokenizer
from beit.tokenizers.base import encoding_precision
from beit.tokenizers.token_cache import TokenCache
from beit.training.ema import average_of
from beit.training.optim import Optimizer
from benchmarks.peers import (
    MaskedTimm,
    dalle_encoder,
    gather,
    in_transformers,
    normalised,
    official,
    require_published_encoder,
)
from benchmarks.race import OURS, Clock, Contest, Contestant
from benchmarks.setting import Setting
from benchmarks.tokenizing import published_tokens

CLIP = 3.0
DECAY = 0.9999
TRAINING = TrainingConfig(steps=2, batch=1, lr=1e-4, clip=CLIP)
"""Its optimizer is ours; the rest of it is not used."""

PEERS: dict[str, Callable[[MaskedImageModel], nn.Module]] = {
    "transformers": in_transformers,
    "timm": MaskedTimm,
    "unilm": official,
}

KEPT = "beit, kept tokens"
"""The tokens of the images are found in a cache on disk."""

RECOMPUTING: dict[str, Recompute] = {
    "beit, selective recompute": "selective",
    "beit, blocks recomputed": "blocks",
}
"""Ours with less memory; the time it costs is in the other parts."""

Tensors = Callable[[], Tensor]
Scoring = Callable[[int], Tensor]
"""Logits of the first so many images."""


def in_children() -> tuple[list[str], dict[str, str]]:
    """Peers whose whole step can be made in a process of its own, and why others cannot."""
    made, skipped = gather({name: require_published_encoder for name in PEERS if name != "unilm"})
    return list(made), skipped


class Task:
    """The model to train, its tokenizer, and the images: the same for everyone."""

    def __init__(self, setting: Setting) -> None:
        torch.manual_seed(0)
        self.setting = setting
        self.tokenizer = build_tokenizer(setting.tokenizer).to(setting.device)
        model = MaskedImageModel(setting.pretraining, self.tokenizer.codes)
        self.model = model.to(setting.device).train()
        self.images = setting.images(model.backbone.config.size)
        self.token_images = setting.images(self.tokenizer.size, seed=1)
        self.mask = setting.mask(setting.pretraining)

    def ours(
        self, precision: str, cache: TokenCache | None = None, recompute: Recompute = "off"
    ) -> Contestant:
        """With the optimizer of our runs: fused, and grouped by decay. With a cache, tokens are
        encoded in the first step and found on disk in the others."""
        fastest = encoding_precision("auto", self.setting.device)
        objective = MaskedImageModeling(self.model, MaskedConfig(), self.tokenizer, fastest)
        objective.set_recompute(recompute)
        tokenizer = objective.tokenizer
        assert tokenizer is not None
        views = torch.tensor([[0, image] for image in range(self.setting.batch)])

        def tokens() -> Tensor:
            if cache is None:
                return tokenizer.encode(self.token_images, self.mask)
            found = cache.tokens(
                views, lambda missing: tokenizer.encode(self.token_images[missing])
            )
            return found.to(self.setting.device)[self.mask]

        return _step(
            self.setting,
            self.model,
            Optimizer(objective, TRAINING).adamw,
            tokens,
            lambda: self.model(self.images, self.mask),
            precision,
        )

    def theirs(self, name: str, precision: str) -> Contestant:
        """The published encoder, the peer's model, and AdamW as torch has it by default."""
        encoder, peer = dalle_encoder(self.tokenizer), PEERS[name](self.model).train()
        token_images, mask = self.token_images, self.mask  # and nothing else of ours stays alive
        return _step(
            self.setting,
            peer,
            torch.optim.AdamW(peer.parameters(), lr=TRAINING.lr),
            lambda: published_tokens(encoder, token_images)[mask],
            partial(self._logits(name, peer), self.setting.batch),
            precision,
        )

    def logits(self, name: str) -> Scoring:
        """A forward pass, its head included; ours or a peer's."""
        if name == OURS:
            return lambda number: self.model(self.images[:number], self.mask[:number])
        return self._logits(name, PEERS[name](self.model).train())

    def _logits(self, name: str, peer: Any) -> Scoring:
        """transformers scores every place; the masked ones are taken out of the answer."""
        pixels, mask = normalised(self.images, self.model.backbone.config), self.mask
        if name == "transformers":
            return lambda number: peer(pixels[:number], bool_masked_pos=mask[:number]).logits[
                mask[:number]
            ]
        return lambda number: peer(pixels[:number], mask[:number])


def contestant(setting: Setting, who: str) -> Contestant:
    """One of them alone, in float32."""
    task = Task(setting)
    if who in RECOMPUTING:
        return task.ours("fp32", recompute=RECOMPUTING[who])
    return task.ours("fp32") if who == OURS else task.theirs(who, "fp32")


def contests(setting: Setting) -> Iterator[Contest]:
    """All learn at a rate that changes little, from the same weights."""
    task = Task(setting)
    for precision in setting.precisions:
        peers, skipped = gather({name: partial(task.theirs, name, precision) for name in PEERS})
        with tempfile.TemporaryDirectory() as folder:
            kept = task.ours(precision, _cache(setting, task, folder))
            clock = Clock(setting.device, setting.threads)
            clock.start()
            kept(clock)  # and so fill the cache
            yield Contest(
                case=f"step {precision}",
                contestants={OURS: task.ours(precision), KEPT: kept, **peers},
                skipped=skipped,
                precision=precision,
                counts_flops=True,
                uncut="timm",
            )
    yield from _head(setting, task.model, task.mask)
    yield from _average(task.model)


def _cache(setting: Setting, task: Task, folder: str) -> TokenCache:
    return TokenCache(
        Path(folder),
        {},
        views=1,
        images=setting.batch,
        patches=setting.pretraining.patches,
        codes=task.tokenizer.codes,
    )


def _step(
    setting: Setting,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tokens: Tensors,
    logits: Tensors,
    precision: str,
) -> Contestant:
    def step(clock: Clock) -> None:
        targets = tokens()
        clock.lap("tokenizer")
        with setting.autocast(precision):
            predictions = logits()
        clock.lap("forward and head")
        loss = F.cross_entropy(predictions.float(), targets)
        clock.lap("loss")
        loss.backward()
        clock.lap("backward")
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.lap("clip and optimizer")

    return step


def _head(setting: Setting, model: MaskedImageModel, mask: Tensor) -> Iterator[Contest]:
    """Norm, head and loss from the output of the last block, forward and backward: of the masked
    places, against all of them with the masked ones taken out afterwards, as transformers has it.
    """
    places = mask.shape[1]
    features = torch.randn(setting.batch, places, model.backbone.config.width).to(setting.device)
    targets = torch.randint(model.outputs, (int(mask.sum()),)).to(setting.device)

    def masked(_clock: Clock) -> None:
        rows = features[mask].requires_grad_()
        F.cross_entropy(model.head(model.norm(rows)).float(), targets).backward()

    def every(_clock: Clock) -> None:
        rows = features.clone().requires_grad_()
        F.cross_entropy(model.head(model.norm(rows))[mask].float(), targets).backward()

    yield Contest(
        case="head and loss fp32",
        contestants={"beit": masked, "every place": every},
        counts_flops=True,
    )
    model.zero_grad(set_to_none=True)


def _average(model: MaskedImageModel) -> Iterator[Contest]:
    """The moving average of the weights, which timm makes one weight after the other."""
    averaged, theirs = average_of(model, DECAY), ModelEmaV2(model, decay=DECAY)
    yield Contest(
        case="average of the weights",
        contestants={
            OURS: lambda _clock: averaged.update_parameters(model),
            "timm": lambda _clock: theirs.update(model),
        },
    )
