"""Train the discrete VAE: reconstruct through sampled codes, keep all codes in use (eq. 1)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from beit.batch import ImageBatch
from beit.config.runs import ReconstructConfig
from beit.objectives.base import Loss, Objective, entropy
from beit.tokenizers.base import count_codes
from beit.tokenizers.dvae import DiscreteVAE


class Reconstruct(Objective[ImageBatch]):
    """Mean reconstruction loss per value, plus the weighted KL per token.

    The KL is averaged over images and positions. The released DiscreteVAE sums it instead, which
    makes it larger by the number of tokens in the batch; DALL-E's weight of 6.6 on sums over a loss
    divided by 256*256*3 is 6.6/192 = 0.034 here.

    Against collapse: `balance_weight` rewards an even use of the codes over the batch, and every
    `revive_every` steps dead codes take over half of busy ones.
    """

    model: DiscreteVAE

    def __init__(self, tokenizer: DiscreteVAE, config: ReconstructConfig, *, seed: int) -> None:
        super().__init__()
        self.model = tokenizer
        self.config = config
        self._seed = seed

    def temperature(self, progress: float) -> float:
        """Gumbel-softmax temperature, annealed on a cosine."""
        config = self.config
        done = min(progress / config.annealing, 1.0) if config.annealing else 1.0
        fall = (1 + math.cos(math.pi * done)) / 2
        return config.final_temperature + (config.first_temperature - config.final_temperature) * (
            fall
        )

    def kl_weight(self, progress: float) -> float:
        """Weight of the KL, raised linearly."""
        warmup = self.config.kl_warmup
        return self.config.kl_weight * (min(progress / warmup, 1.0) if warmup else 1.0)

    def forward(self, batch: ImageBatch, progress: float) -> Loss:
        pixels = self.model.pixels(batch.images)
        logits, output = self.model(pixels, self.temperature(progress), self.chance)
        logits, output = logits.float(), output.float()
        target = self.model.target(pixels)
        if self.model.config.likelihood == "logit-laplace":
            reconstruction = logit_laplace_loss(output, target)
        else:
            reconstruction = F.mse_loss(output, target)
        log_codes = F.log_softmax(logits, dim=1)
        codes = log_codes.exp()
        log_vocabulary = math.log(self.model.codes)
        kl = log_vocabulary + (codes * log_codes).sum(dim=1).mean()
        imbalance = log_vocabulary - entropy(codes.mean(dim=(0, 2, 3)))
        weight = self.kl_weight(progress)
        total = reconstruction + weight * kl + self.config.balance_weight * imbalance
        detached = logits.detach()
        if self.training:
            self.model.observe(detached)
        counts = count_codes(detached.argmax(dim=1).flatten(), self.model.codes)
        terms = {
            "loss": total.detach(),
            "reconstruction": reconstruction.detach(),
            "kl": kl.detach(),
            "codes_in_use": (counts > 0).sum().float(),
            "perplexity": entropy(counts.float()).exp(),
        }
        return Loss(total, terms)

    def after_step(self, step: int) -> dict[str, float]:
        self.model.update_usage(self.config.usage_decay)
        every = self.config.revive_every
        if not every or (step + 1) % every:
            return {}
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        return {"codes_revived": float(self.model.revive(generator))}

    def expectations(self) -> dict[str, float]:
        return {"perplexity_limit": float(self.model.codes)}


def logit_laplace_loss(
    output: Float[Tensor, "batch outputs height width"],
    target: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, ""]:
    """Mean negative log likelihood per value of the logit-Laplace (DALL-E, appendix A.3).

    Location and log scale are the first and second half of the output's channels; the target lies
    strictly between 0 and 1.
    """
    location, log_scale = output.chunk(2, dim=1)
    log_scale = log_scale.clamp(min=-7.0)  # a scale that goes to zero would make the loss unbounded
    distance = (torch.logit(target) - location).abs()
    jacobian = (target * (1 - target)).log()
    return (math.log(2) + log_scale + jacobian + distance * (-log_scale).exp()).mean()
