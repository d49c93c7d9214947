"""The alternatives, from their papers, on a plain ViT of timm of the size of ours.

Small enough to be read beside the papers; rates are usual ones of AdamW at these batches and were
not tuned, ours neither. Augmentations are batched, so that none of them waits for images.
"""

from __future__ import annotations

import abc
import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beit.models.position import sine_positions
from beit.objectives.contrastive import contrast
from benchmarks.quality import scenes

WIDTH, DEPTH, HEADS, PATCH = 128, 6, 4, 8


def plain_vit() -> nn.Module:
    """A ViT as timm makes it, but for its positions, which begin as sines, as ours do: what is
    compared is the method."""
    from timm.models.vision_transformer import VisionTransformer

    vit = VisionTransformer(
        img_size=scenes.SIZE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS,
        num_classes=0, dynamic_img_size=True,
    )  # fmt: skip
    side = scenes.SIZE // PATCH
    with torch.no_grad():
        vit.pos_embed[0, 0] = 0.0
        vit.pos_embed[0, 1:] = sine_positions((side, side), WIDTH)
    return vit


class Method(nn.Module, abc.ABC):
    """One way to learn from images without labels."""

    batch, rate = 128, 1e-3

    def __init__(self) -> None:
        super().__init__()
        self.backbone = plain_vit()

    @abc.abstractmethod
    def loss(self, images: Tensor, chance: torch.Generator) -> Tensor:
        """Of a batch of scenes, uint8 [B, 3, 80, 80]."""

    def after_step(self, progress: float) -> None:
        """Upkeep between two updates."""


class Trainer:
    """AdamW for a fixed number of steps: the rate rises over a twentieth of them and falls on a
    cosine. What is seen, and how, follows from the seed."""

    def __init__(self, method: Method, images: Tensor, *, steps: int, seed: int) -> None:
        self.method, self.images, self.steps, self.done = (
            method.train(),
            images,
            steps,
            0,
        )
        self.chance = torch.Generator().manual_seed(seed)
        trained = [value for value in method.parameters() if value.requires_grad]
        self.adamw = torch.optim.AdamW(
            [
                {
                    "params": [value for value in trained if value.ndim > 1],
                    "weight_decay": 0.05,
                },
                {
                    "params": [value for value in trained if value.ndim <= 1],
                    "weight_decay": 0.0,
                },
            ],
            betas=(0.9, 0.98),
        )

    def step(self) -> float:
        """One update; its loss."""
        progress = self.done / self.steps
        for group in self.adamw.param_groups:
            rising, falling = (
                (self.done + 1) / (0.05 * self.steps),
                1 + math.cos(math.pi * progress),
            )
            group["lr"] = self.method.rate * min(rising, falling / 2)
        batch = min(self.method.batch, len(self.images))
        rows = torch.randint(len(self.images), (batch,), generator=self.chance)
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.method.loss(self.images[rows], self.chance)
        self.adamw.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.method.parameters(), 3.0)
        self.adamw.step()
        self.method.after_step(progress)
        self.done += 1
        return float(loss.detach())


def normalised(views: Tensor) -> Tensor:
    return (views - 0.5) / 0.25


def embedded(backbone: nn.Module, views: Tensor) -> Tensor:
    """Patches with their positions and no class token, [B, N, D]."""
    patches: Tensor = backbone.patch_embed(views)
    return patches.flatten(1, 2) if patches.ndim == 4 else patches


def patch_pixels(views: Tensor) -> Tensor:
    """The values of each patch, [B, N, 192]."""
    return F.unfold(views, PATCH, stride=PATCH).transpose(1, 2)


class MAE(Method):
    """He et al., arXiv:2111.06377: a quarter of the patches enters, a light decoder predicts the
    pixels of the others, normalised patch by patch."""

    batch, rate = 256, 1.5e-3

    def __init__(self) -> None:
        super().__init__()
        from timm.models.vision_transformer import Block

        self.patches = (scenes.SIZE // PATCH) ** 2
        self.narrow = nn.Linear(WIDTH, 64)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 64))
        self.positions = nn.Parameter(torch.randn(1, self.patches, 64) * 0.02)
        self.decoder = nn.Sequential(Block(64, 4), Block(64, 4), nn.LayerNorm(64))
        self.pixels = nn.Linear(64, 3 * PATCH**2)

    def loss(self, images: Tensor, chance: torch.Generator) -> Tensor:
        views = normalised(scenes.crops(images, chance))
        order = torch.rand(len(views), self.patches, generator=chance).argsort(dim=1)[..., None]
        seen, back = order[:, : self.patches // 4], order.argsort(dim=1)
        vit = self.backbone
        x = embedded(vit, views) + vit.pos_embed[:, 1:]
        x = x.gather(1, seen.expand(-1, -1, WIDTH))
        first = (vit.cls_token + vit.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = vit.norm(vit.blocks(torch.cat([first, x], dim=1)))
        x = self.narrow(x[:, 1:])
        hidden = self.mask_token.expand(len(x), self.patches - x.shape[1], -1).to(x.dtype)
        x = torch.cat([x, hidden], dim=1).gather(1, back.expand(-1, -1, 64))
        predicted = self.pixels(self.decoder(x + self.positions)).float()
        wanted = patch_pixels(views)
        spread = wanted.var(dim=2, keepdim=True) + 1e-6
        error = (predicted - (wanted - wanted.mean(dim=2, keepdim=True)) / spread.sqrt()) ** 2
        return error.mean(dim=2)[back[..., 0] >= self.patches // 4].mean()


class SimMIM(Method):
    """Xie et al., arXiv:2111.09886: mask tokens in the place of 60 %, absolute error on pixels, a
    linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pixels = nn.Linear(WIDTH, 3 * PATCH**2)

    def loss(self, images: Tensor, chance: torch.Generator) -> Tensor:
        views, vit = normalised(scenes.crops(images, chance)), self.backbone
        x = embedded(vit, views)
        mask = torch.rand(x.shape[:2], generator=chance).argsort(dim=1) < 0.6 * x.shape[1]
        x = torch.where(mask[..., None], self.mask_token.to(x.dtype), x)
        x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x], dim=1) + vit.pos_embed
        predicted = self.pixels(vit.norm(vit.blocks(x))[:, 1:]).float()
        return (predicted - patch_pixels(views)).abs()[mask].mean()


class SimCLR(Method):
    """Chen et al., arXiv:2002.05709: two views of an image are told from those of all others."""

    temperature = 0.2

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Sequential(
            nn.Linear(WIDTH, 512), nn.BatchNorm1d(512), nn.GELU(), nn.Linear(512, 128)
        )

    def loss(self, images: Tensor, chance: torch.Generator) -> Tensor:
        twice = torch.cat([images, images])
        views = normalised(scenes.views(twice, chance, scale=(0.2, 1.0)))
        pooled = self.backbone.forward_features(views)[:, 1:].mean(dim=1)
        first, second = self.projection(pooled).float().chunk(2)
        return contrast(first, second, temperature=self.temperature)[0]


class DINO(Method):
    """Caron et al., arXiv:2104.14294: a student's class token agrees with that of its average on
    other views, four of them small."""

    rate = 1e-3
    batch = 64
    codes = 1024

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(WIDTH, 512), nn.GELU(), nn.Linear(512, 64))
        self.prototypes = nn.utils.parametrizations.weight_norm(
            nn.Linear(64, self.codes, bias=False)
        )
        self.prototypes.parametrizations.weight.original0.data.fill_(1)
        self.prototypes.parametrizations.weight.original0.requires_grad = False
        student = nn.ModuleList([self.backbone, self.head, self.prototypes])
        self.teacher = copy.deepcopy(student).requires_grad_(False)
        self.student = [student]  # a list, so that its weights count once
        self.register_buffer("middle", torch.zeros(self.codes))

    def _scores(self, parts: nn.ModuleList, views: Tensor) -> Tensor:
        backbone, head, prototypes = parts
        z = F.normalize(head(backbone.forward_features(views)[:, 0]).float(), dim=1)
        scores: Tensor = prototypes(z).float()
        return scores

    def loss(self, images: Tensor, chance: torch.Generator) -> Tensor:
        def views(number: int, scale: tuple[float, float], size: int) -> Tensor:
            repeated = images.repeat(number, 1, 1, 1)
            return normalised(scenes.views(repeated, chance, scale=scale, size=size))

        large, small = views(2, (0.4, 1.0), 64), views(4, (0.1, 0.4), 32)
        with torch.no_grad():
            scores = self._scores(self.teacher, large)
            wanted = ((scores - self.middle) / 0.04).softmax(dim=1).chunk(2)
            self.middle.lerp_(scores.mean(dim=0), 0.1)
        student = self.student[0]
        told = torch.cat([self._scores(student, large), self._scores(student, small)]) / 0.1
        logs = told.log_softmax(dim=1).split(len(images))
        losses = [
            -(target * log).sum(dim=1).mean()
            for number, target in enumerate(wanted)
            for place, log in enumerate(logs)
            if place != number
        ]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        keep = 1 - 0.01 * 0.5 * (1 + math.cos(math.pi * progress))
        pairs = zip(self.teacher.parameters(), self.student[0].parameters(), strict=True)
        for average, value in pairs:
            average.lerp_(value, 1 - keep)


METHODS: dict[str, Callable[[], Method]] = {
    "SimCLR": SimCLR,
    "DINO": DINO,
    "MAE": MAE,
    "SimMIM": SimMIM,
}
