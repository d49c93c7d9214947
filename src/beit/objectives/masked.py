"""Masked image modeling: the method of BEiT (arXiv:2106.08254, sections 2.2 to 2.4) on one page.

An image has two views: patches, which the backbone reads, and visual tokens, which a frozen
tokenizer makes of the clean image, one per patch. Some patches are masked: a learned vector stands
in their place. From what is left the backbone predicts the tokens of the masked patches, and of no
others; the loss is the cross-entropy over the vocabulary.

BEiT v2 (arXiv:2208.06366, section 2.3) predicts them a second time, through the class token, and
adds the two losses. The ablations of table 4 are options: all patches instead of the masked ones,
pixels instead of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from beit.batch import MaskedBatch
from beit.config.masking import MaskedConfig, PretrainObjectiveConfig
from beit.errors import ConfigError
from beit.masked_patches import MaskedPatches
from beit.models.heads import MaskedImageModel, PatchPredictor
from beit.models.layers import Block
from beit.objectives.base import Loss, Objective, entropy
from beit.objectives.targets import TokenTargets, check_tokenizer, patchify, pixel_values
from beit.tokenizers.base import VisualTokenizer, count_codes
from beit.tokenizers.token_cache import TokenCache


class MaskedImageModeling(Objective[MaskedBatch]):
    """Predict the visual tokens of masked patches."""

    model: PatchPredictor

    def __init__(
        self,
        model: PatchPredictor,
        config: PretrainObjectiveConfig,
        tokenizer: VisualTokenizer | None,
        precision: torch.dtype = torch.float32,
        cache: TokenCache | None = None,
    ) -> None:
        """Check that tokenizer, backbone and head fit each other, and freeze the tokenizer.

        Args:
            model: Predicts the patches of a corrupted image.
            config: What is predicted, tokens or pixels, of which patches.
            tokenizer: Makes the tokens; None if pixels are predicted.
            precision: Type that the tokenizer encodes in.
            cache: Keeps the tokens of views that recur.

        Raises:
            ConfigError: They do not fit.
        """
        super().__init__()
        self.model = model
        self.config = config
        masking = config if isinstance(config, MaskedConfig) else MaskedConfig()
        self.predicts_all = masking.predict == "all"
        self._pixel_error = F.l1_loss if masking.pixel_loss == "absolute" else F.mse_loss
        self.tokens: TokenTargets | None = None
        backbone = model.backbone.config
        if config.target == "tokens":
            fitting = check_tokenizer(tokenizer, backbone, model.outputs)
            self.tokens = TokenTargets(fitting, precision, cache)
        elif model.outputs != pixel_values(backbone):
            raise ConfigError(
                f"the head gives {model.outputs} values, a patch has {pixel_values(backbone)}",
                remedy="build the head for the pixels of one patch",
            )

    def forward(self, batch: MaskedBatch, progress: float) -> Loss:
        masked = read_masked(batch)
        return self.compare(self.predict(batch, masked), batch, masked)

    def compare(
        self,
        predictions: Sequence[Float[Tensor, "rows outputs"]],
        batch: MaskedBatch,
        masked: MaskedPatches,
    ) -> Loss:
        """The sum of the losses of the predictions.

        Args:
            predictions: From `predict`; the first is the main one.
            batch: What they were made from.
            masked: The mask of the batch, with its numbers.
        """
        predictions = [rows.float() for rows in predictions]
        if self.tokens is None:
            return self._pixel_loss(predictions, batch, masked)
        targets = self.tokens(batch, None if self.predicts_all else masked)
        losses = [F.cross_entropy(rows, targets) for rows in predictions]
        return _add(losses, self._token_terms(predictions[0], targets, batch))

    def predict(
        self, batch: MaskedBatch, masked: MaskedPatches
    ) -> Sequence[Float[Tensor, "rows outputs"]]:
        """Predictions for the masked patches in row-major order, or for all; two with patch
        aggregation."""
        assert isinstance(self.model, MaskedImageModel)
        return self.model.predictions(batch.images, masked, self.predicts_all)

    def _pixel_loss(
        self,
        predictions: Sequence[Float[Tensor, "rows values"]],
        batch: MaskedBatch,
        masked: MaskedPatches,
    ) -> Loss:
        """Error on the normalised pixels (table 4, pixel regression)."""
        patches = self.pixels(batch)
        targets = patches.flatten(0, 1) if self.predicts_all else masked.select(patches)
        losses = [self._pixel_error(rows, targets) for rows in predictions]
        return _add(losses, {"target_variance": targets.var().detach()})

    def pixels(self, batch: MaskedBatch) -> Float[Tensor, "batch patches values"]:
        """The values that are to be predicted for every patch, if not tokens."""
        backbone = self.model.backbone
        return patchify(backbone.normalise(batch.images), backbone.config.patch)

    @torch.no_grad()
    def _token_terms(
        self,
        logits: Float[Tensor, "rows codes"],
        targets: Int64[Tensor, " rows"],
        batch: MaskedBatch,
    ) -> dict[str, Float[Tensor, ""]]:
        hits = (logits.argmax(dim=-1) == targets).float()
        if self.predicts_all:  # accuracy is that of the masked patches, unless nothing is masked
            counted = (batch.mask | ~batch.mask.any()).flatten().float()
            hits = hits * counted / counted.mean()
        counts = count_codes(targets, self.model.outputs).float()
        return {
            "accuracy": hits.mean(),
            "token_entropy": entropy(counts),
            "codes_in_use": (counts > 0).sum().float(),
        }

    @property
    def tokenizer(self) -> VisualTokenizer | None:
        """The frozen tokenizer, in the precision it encodes in; None if pixels are predicted."""
        return None if self.tokens is None else self.tokens.tokenizer

    def worth_compiling(self) -> list[nn.Module]:
        """The blocks, and a tokenizer of convolutions: a third of a step of BEiT base."""
        tokenizer = self.tokenizer
        if tokenizer is None or any(isinstance(module, Block) for module in tokenizer.modules()):
            return self.blocks()
        return [*self.blocks(), tokenizer]

    def after_step(self, step: int) -> dict[str, float]:
        return {} if self.tokens is None else self.tokens.agreement()

    def expectations(self) -> dict[str, float]:
        return {} if self.tokens is None else {"chance_loss": math.log(self.model.outputs)}


def read_masked(batch: MaskedBatch) -> MaskedPatches:
    """The mask of a batch, with its numbers."""
    return MaskedPatches.of(batch.mask) if batch.masked is None else batch.masked


def _add(losses: Sequence[Float[Tensor, ""]], terms: dict[str, Float[Tensor, ""]]) -> Loss:
    """Add up the losses of all predictions, which count the same. The main one is logged as `loss`,
    comparable whether or not there is a second; the second has its own name."""
    names = ("loss", "aggregation_loss")
    logged = {name: loss.detach() for name, loss in zip(names, losses, strict=False)}
    return Loss(torch.stack(list(losses)).sum(), logged | terms)
