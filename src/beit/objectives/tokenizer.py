"""Train a visual tokenizer: rebuild images, or a teacher's features, through discrete codes.

The discrete VAE samples codes and is encouraged to use all of them (eq. 1). VQ-KD (BEiT v2, section
2.2, eq. 4) maximises the cosine of rebuilt and true features and pulls vectors to their codes,
which follow by moving averages between two steps.
"""

from __future__ import annotations

import abc
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from beit.batch import ImageBatch
from beit.config.runs import QuantiseConfig, ReconstructConfig
from beit.errors import ConfigError
from beit.objectives.base import Loss, Objective, entropy
from beit.objectives.targets import patchify
from beit.tokenizers.base import VisualTokenizer, count_codes
from beit.tokenizers.dvae import DiscreteVAE
from beit.tokenizers.patches import PatchCodebook
from beit.tokenizers.teachers import Teacher
from beit.tokenizers.token_cache import FeatureCache, Views
from beit.tokenizers.vq import QuantisedTokenizer, VQKDTokenizer, VQTokenizer

Pixels = Float[Tensor, "batch channels height width"]
Patches = Float[Tensor, "batch patches outputs"]


class TokenizerObjective(Objective[ImageBatch]):
    """What all tokenizers share: a vocabulary whose use is logged, and dead codes to revive."""

    model: VisualTokenizer
    config: ReconstructConfig | QuantiseConfig

    def __init__(
        self, tokenizer: VisualTokenizer, config: ReconstructConfig | QuantiseConfig, *, seed: int
    ) -> None:
        super().__init__()
        self.model, self.config, self._seed = tokenizer, config, seed

    @abc.abstractmethod
    def update_codes(self) -> None:
        """Update the codes, or the statistics of their use, after a step."""

    @abc.abstractmethod
    def revive(self, generator: torch.Generator) -> int:
        """Replace dead codes; return how many."""

    def after_step(self, step: int) -> dict[str, float]:
        self.update_codes()
        every = self.config.revive_every
        if not every or (step + 1) % every:
            return {}
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        return {"codes_revived": float(self.revive(generator))}

    def expectations(self) -> dict[str, float]:
        return {"perplexity_limit": float(self.model.codes)}

    def usage_terms(self, tokens: Int64[Tensor, " tokens"]) -> dict[str, Float[Tensor, ""]]:
        """How many codes these tokens use, and the perplexity of their distribution."""
        counts = count_codes(tokens, self.model.codes)
        return {
            "codes_in_use": (counts > 0).sum().float(),
            "perplexity": entropy(counts.float()).exp(),
        }


class VAEReconstruction(TokenizerObjective):
    """The loss of the discrete VAE: mean reconstruction loss per value, plus the weighted KL per
    token.

    The KL is averaged over images and positions. The released DiscreteVAE sums it instead, which
    makes it larger by the number of tokens in the batch; DALL-E's weight of 6.6 on sums over a loss
    divided by 256*256*3 is 6.6/192 = 0.034 here.

    Against collapse: `balance_weight` rewards even use of the codes over the batch, and every
    `revive_every` steps busy codes are split in two to replace dead ones.
    """

    model: DiscreteVAE
    config: ReconstructConfig

    def temperature(self, progress: float) -> float:
        """Gumbel-softmax temperature, annealed on a cosine."""
        config = self.config
        done = min(progress / config.annealing, 1.0) if config.annealing else 1.0
        left = (1 + math.cos(math.pi * done)) / 2
        first, final = config.first_temperature, config.final_temperature
        return final + (first - final) * left

    def kl_weight(self, progress: float) -> float:
        """Weight of the KL, raised linearly at first."""
        warmup = self.config.kl_warmup
        return self.config.kl_weight * (min(progress / warmup, 1.0) if warmup else 1.0)

    def forward(self, batch: ImageBatch, progress: float) -> Loss:
        pixels = self.model.pixels(batch.images)
        logits, output = self.model(pixels, self.temperature(progress), self.rng)
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
        total = reconstruction + self.kl_weight(progress) * kl
        total = total + self.config.balance_weight * imbalance
        detached = logits.detach()
        if self.training:
            self.model.observe(detached)
        terms = {
            "loss": total.detach(),
            "reconstruction": reconstruction.detach(),
            "kl": kl.detach(),
            **self.usage_terms(detached.argmax(dim=1).flatten()),
        }
        return Loss(total, terms)

    def update_codes(self) -> None:
        self.model.update_usage(self.config.usage_decay)

    def revive(self, generator: torch.Generator) -> int:
        return self.model.revive(generator)


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


class Quantisation(TokenizerObjective):
    """The loss of a quantised tokenizer, which brings what is rebuilt near its target, and vectors
    near their codes.

    As in the released code, the reconstruction is averaged over tokens and the commitment over all
    values of all vectors, both in float32.
    """

    model: QuantisedTokenizer | PatchCodebook
    config: QuantiseConfig

    @abc.abstractmethod
    def distance(self, values: Patches, pixels: Pixels, views: Views | None) -> Float[Tensor, ""]:
        """Mean distance of what was rebuilt from its target.

        Args:
            values: What was rebuilt, in float32.
            pixels: The images in [0, 1], from which the target follows.
            views: Which view of which image each one is, where views recur.
        """

    def forward(self, batch: ImageBatch, progress: float) -> Loss:
        pixels = self.model.pixels(batch.images)
        values, commitment, tokens = self.model(pixels)
        reconstruction = self.distance(values.float(), pixels, batch.views)
        total = reconstruction + self.config.commitment_weight * commitment
        terms = {
            "loss": total.detach(),
            "reconstruction": reconstruction.detach(),
            "commitment": commitment.detach(),
            **self.usage_terms(tokens.flatten()),
        }
        return Loss(total, terms)

    def update_codes(self) -> None:
        self.model.quantize.update()

    def revive(self, generator: torch.Generator) -> int:
        return self.model.quantize.revive(generator)

    def without_decay(self) -> frozenset[str]:
        return self.model.without_decay()


class VQDistillation(Quantisation):
    """VQ-KD: one minus the cosine with the teacher's features of each patch."""

    model: VQKDTokenizer

    def __init__(
        self,
        tokenizer: VQKDTokenizer,
        config: QuantiseConfig,
        teacher: Teacher,
        *,
        seed: int,
        cache: FeatureCache | None = None,
    ) -> None:
        """With a `cache` the teacher computes only what is missing there.

        Raises:
            ConfigError: The teacher's vectors have another length, lie on another grid, or are of
                images with other channels.
        """
        super().__init__(tokenizer, config, seed=seed)
        if teacher.width != tokenizer.config.teacher_width:
            raise ConfigError(
                f"the teacher's vectors have {teacher.width} values, and the tokenizer rebuilds "
                f"{tokenizer.config.teacher_width}",
                remedy=f"give the tokenizer a teacher_width of {teacher.width}",
            )
        teacher.check(tokenizer.grid, tokenizer.config.channels)
        self.teacher = teacher
        self._cache = cache

    def distance(self, values: Patches, pixels: Pixels, views: Views | None) -> Float[Tensor, ""]:
        return 1 - F.cosine_similarity(values, self._features(pixels, views), dim=2).mean()

    def _features(self, pixels: Pixels, views: Views | None) -> Patches:
        patch = self.model.config.patch
        grid = (pixels.shape[2] // patch, pixels.shape[3] // patch)
        if self._cache is None:
            features: Tensor = self.teacher(pixels, grid)
            return features
        assert views is not None, "a cache is for views that recur"
        cached = self._cache.features(views, lambda missing: self.teacher(pixels[missing], grid))
        return cached.to(pixels.device)


class VQReconstruction(Quantisation):
    """VQ without a teacher, or k-means: squared error of the pixels of each patch, where [-1, 1]
    stands for [0, 1]."""

    model: VQTokenizer | PatchCodebook

    def distance(self, values: Patches, pixels: Pixels, _views: Views | None) -> Float[Tensor, ""]:
        return F.mse_loss(values, patchify(2 * pixels - 1, self.model.config.patch))
