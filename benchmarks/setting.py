"""What is measured: base models, or small ones for a quick look; on which device, in what types."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from beit.config import DalleConfig, VisionTransformerConfig, sized
from beit.hardware import multiplies_bfloat16
from beit.recipes.finetune import for_finetuning

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One run of the benchmarks."""

    quick: bool
    device: torch.device
    threads: int
    rounds: int
    batch: int

    @property
    def precisions(self) -> tuple[str, ...]:
        """float32, and bfloat16 where it is fast."""
        return ("fp32", "bf16") if multiplies_bfloat16(self.device) else ("fp32",)

    @property
    def pretraining(self) -> VisionTransformerConfig:
        """The backbone of BEiT base with a shared bias, or one of two narrow blocks."""
        config = sized("base")
        if not self.quick:
            return config
        return replace(config, width=192, depth=2, heads=3, hidden=768)

    @property
    def classifying(self) -> VisionTransformerConfig:
        """The same with a bias per block and without stochastic depth, whose draws would differ."""
        return for_finetuning(self.pretraining, 0.0)

    @property
    def tokenizer(self) -> DalleConfig:
        """The encoder of DALL-E, or one of a quarter of its width."""
        if not self.quick:
            return DalleConfig(decoder=False)
        return DalleConfig(hidden=64, codes=1024, decoder=False)

    def autocast(self, precision: str) -> AbstractContextManager[object]:
        """The same for ours and for the peers."""
        dtype = TYPES[precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32)

    def images(self, size: tuple[int, int], *, number: int | None = None, seed: int = 0) -> Tensor:
        """Noise as uint8 images; the time does not depend on what they show."""
        chance = torch.Generator().manual_seed(seed)
        shape = (number or self.batch, 3, *size)
        return torch.randint(256, shape, generator=chance, dtype=torch.uint8).to(self.device)

    def mask(self, backbone: VisionTransformerConfig) -> Tensor:
        """75 of 196 patches of each image, or that share."""
        patches = backbone.patches
        chance = torch.rand(self.batch, patches, generator=torch.Generator().manual_seed(1))
        return (chance.argsort(dim=1) < round(75 / 196 * patches)).to(self.device)
