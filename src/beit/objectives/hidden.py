"""What all objectives of hidden patches share: targets, losses, and what is told of them.

A picture has two views, patches and visual tokens. The frozen tokenizer turns it into one token per
patch. Some patches are hidden. A model predicts what they hold from the rest, in the way that tells
one objective from another. The loss is the cross-entropy of those predictions.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from beit.batch import MaskedBatch
from beit.config.hidden import PretrainObjectiveConfig
from beit.config.model import VisionTransformerConfig
from beit.errors import ConfigError
from beit.models.heads import MaskedImageModel
from beit.models.layers import Block
from beit.models.visible import VisibleOnlyModel
from beit.objectives.base import Loss, Objective, entropy
from beit.tokenizers.bank import TokenBank
from beit.tokenizers.base import VisualTokenizer


class HiddenPatchPrediction(Objective[MaskedBatch]):
    """Predict the visual tokens of hidden patches, or their pixels."""

    model: MaskedImageModel | VisibleOnlyModel

    def __init__(
        self,
        model: MaskedImageModel | VisibleOnlyModel,
        config: PretrainObjectiveConfig,
        tokenizer: VisualTokenizer | None,
        precision: torch.dtype = torch.float32,
        bank: TokenBank | None = None,
    ) -> None:
        """`precision` is the tokenizer's. If it is not float32, the first batch is encoded in both,
        and the share of equal tokens is told. With a `bank` only what it lacks is encoded."""
        super().__init__()
        backbone = model.backbone.config
        if config.target == "tokens":
            check_tokenizer(tokenizer, backbone, model.outputs)
        elif model.outputs != pixel_values(backbone):
            raise ConfigError(
                f"the head gives {model.outputs} values, a patch has {pixel_values(backbone)}",
                remedy="build the head for the pixels of one patch",
            )
        self.model = model
        self._target = config.target
        self._bank = bank
        self.tokenizer = None if tokenizer is None else tokenizer.freeze()
        self._exact: VisualTokenizer | None = None  # until it was compared with
        self._agreement: Tensor | None = None
        if tokenizer is not None and precision != torch.float32:
            self.tokenizer, self._exact = tokenizer.in_precision(precision), tokenizer

    @abc.abstractmethod
    def predictions(self, batch: MaskedBatch) -> Sequence[Float[Tensor, "rows outputs"]]:
        """Of the masked patches in row-major order, or of all; the first is the main one."""

    @property
    def predicts_all(self) -> bool:
        """Whether visible patches are predicted, too."""
        return False

    def forward(self, batch: MaskedBatch, progress: float) -> Loss:
        every = self.predicts_all
        predictions = [rows.float() for rows in self.predictions(batch)]
        if self._target == "pixels":
            return self._pixel_loss(predictions, batch)
        targets = self._tokens(batch, None if every else batch.mask).flatten()
        losses = [F.cross_entropy(rows, targets) for rows in predictions]
        with torch.no_grad():
            hits = (predictions[0].argmax(dim=-1) == targets).float()
            if every:  # the masked places still are what is told, unless nothing is masked
                asked = (batch.mask | ~batch.mask.any()).flatten().float()
                hits = hits * asked / asked.mean()
            counts = torch.bincount(targets, minlength=self.model.outputs).float()
        terms = {
            "accuracy": hits.mean(),
            "token_entropy": entropy(counts),
            "codes_in_use": (counts > 0).sum().float(),
        }
        return _sum(losses, terms)

    def _tokens(
        self, batch: MaskedBatch, mask: Bool[Tensor, "batch patches"] | None
    ) -> Int64[Tensor, "*places"]:
        """What is to be predicted: the tokens of the masked places, or of all."""
        tokens = self._encoded(batch, mask)
        if self._exact is not None:
            exact = self._exact.encode(batch.token_images, mask)
            self._agreement = (tokens == exact).float().mean()
            self._exact = None
        return tokens

    def _encoded(
        self, batch: MaskedBatch, mask: Bool[Tensor, "batch patches"] | None
    ) -> Int64[Tensor, "*places"]:
        tokenizer, images = self.tokenizer, batch.token_images
        assert tokenizer is not None
        if self._bank is None:
            return tokenizer.encode(images, mask)
        assert batch.views is not None, "a bank is for views that recur"
        tokens = self._bank.tokens(batch.views, lambda missing: tokenizer.encode(images[missing]))
        tokens = tokens.to(images.device)
        return tokens if mask is None else tokens[mask]

    def worth_compiling(self) -> list[nn.Module]:
        """The blocks, and a tokenizer of convolutions, a third of a step of BEiT base."""
        tokenizer = self.tokenizer
        if tokenizer is None or any(isinstance(module, Block) for module in tokenizer.modules()):
            return self.blocks()
        return [*self.blocks(), tokenizer]

    def after_step(self, step: int) -> dict[str, float]:
        """Once: the share of tokens that the tokenizer's precision left as they are."""
        if self._agreement is None:
            return {}
        agreement, self._agreement = float(self._agreement), None
        return {"token_agreement": agreement}

    def _pixel_loss(
        self, predictions: list[Float[Tensor, "rows values"]], batch: MaskedBatch
    ) -> Loss:
        """Squared error on the normalised pixels (table 4, pixel regression)."""
        backbone = self.model.backbone
        targets = patchify(backbone.normalise(batch.images), backbone.config.patch)
        rows = targets.flatten(0, 1) if self.predicts_all else targets[batch.mask]
        losses = [F.mse_loss(predicted, rows) for predicted in predictions]
        return _sum(losses, {"target_variance": rows.var().detach()})

    def expectations(self) -> dict[str, float]:
        if self._target == "pixels":
            return {}
        return {"chance_loss": math.log(self.model.outputs)}


def _sum(losses: list[Float[Tensor, ""]], terms: dict[str, Float[Tensor, ""]]) -> Loss:
    """All predictions count the same. `loss` is the main one's, comparable whether or not there is
    a second; that of the second has its own name."""
    names = ("loss", "aggregation_loss")
    told = {name: loss.detach() for name, loss in zip(names, losses, strict=False)}
    return Loss(torch.stack(losses).sum(), told | terms)


def pixel_values(backbone: VisionTransformerConfig) -> int:
    """Values in one patch."""
    return backbone.patch**2 * backbone.channels


def patchify(
    images: Float[Tensor, "batch channels height width"], patch: int
) -> Float[Tensor, "batch patches values"]:
    """Cut pictures into patches, row by row; the values of each in (channel, row, column) order."""
    return F.unfold(images, kernel_size=patch, stride=patch).transpose(1, 2)


def check_tokenizer(
    tokenizer: VisualTokenizer | None, backbone: VisionTransformerConfig, outputs: int
) -> None:
    """Raise ConfigError unless each patch has exactly one token and each token one output."""
    if tokenizer is None:
        raise ConfigError(
            "predicting tokens needs a tokenizer",
            remedy="train one with `beit tokenizer`, and name it with --tokenizer",
        )
    if tokenizer.grid != backbone.grid:
        raise ConfigError(
            f"the tokenizer gives {tokenizer.grid[0]} x {tokenizer.grid[1]} tokens "
            f"(size {tokenizer.size}, stride {tokenizer.config.downsampling}), the backbone has "
            f"{backbone.grid[0]} x {backbone.grid[1]} patches (size {backbone.size}, patch "
            f"{backbone.patch})",
            remedy="train a tokenizer for this grid, or change size or patch",
        )
    if tokenizer.codes != outputs:
        raise ConfigError(
            f"the tokenizer has {tokenizer.codes} codes, the head predicts {outputs}",
            remedy="build the head for the tokenizer's vocabulary",
        )
    if tokenizer.config.channels != backbone.channels:
        raise ConfigError(
            f"the tokenizer reads {tokenizer.config.channels} channels, the backbone "
            f"{backbone.channels}",
            remedy="train both on pictures of the same kind",
        )
