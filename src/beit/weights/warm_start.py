"""Start a model from another one: which of its weights are kept, and which are not and why.

The one place for all verbs. As in the published chains (beit-reference, section 5.3; sections 6 and
8), the backbone is always kept, the final norm where the next model has it in the same place, and
a head where it gives the same answers: the same classes, or the tokens of the same tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from torch import Tensor, nn

from beit.models.aggregation import PatchAggregation
from beit.models.heads import BackboneModel, Classifier, MaskedImageModel
from beit.models.segmenter import Segmenter
from beit.models.upernet import FCNHead, PixelClassifier
from beit.models.visible import VisibleOnlyModel
from beit.terminal import printable
from beit.weights.store import Artifact, Details
from beit.weights.strict import load_strictly
from beit.weights.transfer import Match, match_classes, resize_positions, start_from


class WarmStart(NamedTuple):
    """What became of the parts of a model that another one was started from."""

    taken: tuple[str, ...]
    left: tuple[str, ...]
    """Parts that were not taken, each with the reason."""
    new: tuple[str, ...]
    """Parts of the started model that have their initial weights."""

    def lines(self, source: str) -> Iterator[str]:
        """For a terminal or a log: one line for what was taken, one for what was not, one for what
        is new if anything is. `source` is what the weights come from."""
        name = printable(source)
        yield f"taken from {name}: {', '.join(self.taken)}"
        yield f"not taken from {name}: {', '.join(self.left) or 'nothing'}"
        if self.new:
            yield f"new, with initial weights: {', '.join(self.new)}"


def warm_start(model: BackboneModel, details: Details, source: Artifact) -> WarmStart:
    """Load into a new model what an artifact or a released file has for it.

    Args:
        model: The model to be trained, with its initial weights; changed in place.
        details: What its own artifact will say: the classes, the digest of the tokenizer.
        source: Another model with a backbone of the same architecture; not changed.

    Returns:
        What was taken, what was not and why, and what is new.

    Raises:
        CheckpointError: The backbones have another architecture.
    """
    assert isinstance(source.model, BackboneModel)
    start = _Start(model, details, source.model, source.details)
    start.backbone()
    start.norm()
    start.heads()
    return WarmStart(tuple(start.taken), tuple(start.left), tuple(start.new))


NormPlace = Literal["before pooling", "after pooling", ""]


def _norm_place(model: BackboneModel) -> NormPlace:
    """Where the final norm stands: `norm` and `fc_norm` of the published files are two things."""
    if getattr(model, "norm", None) is None:
        return ""
    after = isinstance(model, Classifier) and model.pooling == "mean"
    return "after pooling" if after else "before pooling"


def _head_parts(model: BackboneModel) -> list[str]:
    """What a model has beside its backbone and final norm."""
    if isinstance(model, MaskedImageModel):
        return ["prediction head"] + ["patch aggregation"] * (model.aggregation is not None)
    if isinstance(model, VisibleOnlyModel):
        return ["decoder"]
    if isinstance(model, Classifier):
        return [f"head for {model.head.out_features} classes"]
    if isinstance(model, Segmenter):
        auxiliary = model.auxiliary_head is not None
        return ["neck", "decode head"] + ["auxiliary head"] * auxiliary
    children = (name.replace("_", " ") for name, _ in model.named_children())
    return [name for name in children if name not in ("backbone", "norm")]


class _Start:
    """The parts of two models, gone through one after the other."""

    def __init__(
        self, model: BackboneModel, details: Details, source: BackboneModel, said: Details
    ) -> None:
        self.model, self.details, self.source, self.said = model, details, source, said
        self.taken: list[str] = []
        self.left: list[str] = []
        self.new: list[str] = []

    def _take(self, part: str, into: nn.Module, weights: dict[str, Tensor], note: str = "") -> None:
        load_strictly(into, weights)
        self.taken.append(part + (f" ({note})" if note else ""))

    def backbone(self) -> None:
        mine, theirs = self.model.backbone, self.source.backbone
        found = start_from(mine, theirs.state_dict(), theirs.config)
        self.taken.append("backbone" + (f" ({'; '.join(found.changed)})" if found.changed else ""))
        if found.left:
            self.left.append("mask token (this backbone sees no masked patches)")

    def norm(self) -> None:
        mine, theirs = _norm_place(self.model), _norm_place(self.source)
        if mine and mine == theirs:
            norms = [getattr(model, "norm", None) for model in (self.model, self.source)]
            assert isinstance(norms[0], nn.Module)
            assert isinstance(norms[1], nn.Module)
            self._take("final norm", norms[0], norms[1].state_dict())
            return
        if mine:
            self.new.append("final norm")
        if not theirs:
            return
        both = isinstance(self.model, Classifier) and isinstance(self.source, Classifier)
        if not mine:
            segments = isinstance(self.model, Segmenter)
            why = "a segmentation head reads blocks without it" if segments else "none is here"
        elif mine == "after pooling":
            why = "it normalises before pooling, and mean pooling is normalised after it"
            why += "; --pooling cls keeps it" * both
        else:
            why = "it normalises the mean of the patches, which is not taken here"
            why += "; --pooling mean keeps it" * both
        self.left.append(f"final norm ({why})")

    def heads(self) -> None:
        model, source = self.model, self.source
        if isinstance(model, MaskedImageModel) and isinstance(source, MaskedImageModel):
            self._prediction(model, source)
        elif isinstance(model, Classifier) and isinstance(source, Classifier):
            self._classifier(model, source)
        elif isinstance(model, Segmenter) and isinstance(source, Segmenter):
            self._segmenter(model, source)
        else:
            self.left += [f"{part} (of another task)" for part in _head_parts(source)]
            self.new += _head_parts(model)

    # -- classification ----------------------------------------------------------------------

    def _classes(self) -> Match:
        if self.details.multi_label != self.said.multi_label:
            answers = {True: "several classes for an image", False: "one class for each image"}
            return Match(None, f"it answers {answers[self.said.multi_label]}, this run learns "
                         f"{answers[self.details.multi_label]}")  # fmt: skip
        return match_classes(self.said.classes, self.details.classes)

    def _classifier(self, model: Classifier, source: Classifier) -> None:
        (mine,), (theirs,) = _head_parts(model), _head_parts(source)
        match = self._classes()
        if model.pooling != source.pooling:
            reads = "class token" if source.pooling == "cls" else "mean of the patches"
            match = Match(None, f"it reads the {reads}; --pooling {source.pooling} keeps it")
        if match.order is None:
            self.left.append(f"{theirs} ({match.note})")
            self.new.append(mine)
            return
        rows = {name: value[match.order] for name, value in source.head.state_dict().items()}
        self._take(mine, model.head, rows, match.note)

    # -- pre-training ------------------------------------------------------------------------

    def _targets(self, model: MaskedImageModel, source: MaskedImageModel) -> tuple[bool, str]:
        """Whether both predict the same of a hidden patch, and by what that is known or why not."""
        config = source.backbone.config
        mine, theirs = self.details.tokenizer, self.said.tokenizer
        pixels = not theirs and source.outputs == config.patch**2 * config.channels
        if pixels or not mine:
            if bool(pixels) != (not mine):
                return False, f"it predicts {'pixels, not tokens' if pixels else 'tokens'}"
            other = model.backbone.config
            same = (other.mean, other.std) == (config.mean, config.std)
            return same, "" if same else "it predicts pixels of another mean and std"
        if theirs:
            return theirs == mine, "" if theirs == mine else "it predicts another tokenizer's codes"
        if source.outputs != model.outputs:
            return False, f"it predicts {source.outputs} codes, this tokenizer has {model.outputs}"
        return True, (
            f"by its vocabulary of {source.outputs} codes: the file does not say by which "
            "tokenizer it was trained"
        )

    def _prediction(self, model: MaskedImageModel, source: MaskedImageModel) -> None:
        same, note = self._targets(model, source)
        if not same:
            self.left += [f"{part} ({note})" for part in _head_parts(source)]
            self.new += _head_parts(model)
            return
        self._take("prediction head", model.head, source.head.state_dict(), note)
        if source.aggregation is not None:
            why = self._other_aggregation(model, source)
            if not why and model.aggregation is not None:
                weights = resize_positions(
                    source.aggregation.state_dict(), source.backbone.config, model.backbone.config
                )
                self._take("patch aggregation", model.aggregation, weights)
                return
            self.left.append(f"patch aggregation ({why})")
        if model.aggregation is not None:
            self.new.append("patch aggregation")

    @staticmethod
    def _other_aggregation(model: MaskedImageModel, source: MaskedImageModel) -> str:
        theirs: PatchAggregation | None = source.aggregation
        assert theirs is not None
        if model.aggregation is None:
            return f"this recipe has none; --early-layer {theirs.config.early_layer} keeps it"
        if model.aggregation.config != theirs.config:
            options = f"--early-layer {theirs.config.early_layer} --blocks {theirs.config.blocks}"
            return f"this recipe has another; {options} and its kind of head keep it"
        if model.backbone.config.relative_position != source.backbone.config.relative_position:
            return "its blocks have another relative position bias"
        return ""

    # -- segmentation ------------------------------------------------------------------------

    def _segmenter(self, model: Segmenter, source: Segmenter) -> None:
        why = _other_head(model, source)
        if why:
            self.left += [f"{part} ({why})" for part in _head_parts(source)]
            self.new += _head_parts(model)
            return
        match = self._classes()
        self._take("neck", model.neck, source.neck.state_dict())
        parts = [("decode head", model.decode_head, source.decode_head)]
        mine, theirs = model.auxiliary_head, source.auxiliary_head
        if mine is not None and theirs is not None and not _other_auxiliary(mine, theirs):
            parts.append(("auxiliary head", mine, theirs))
        else:
            self.left += ["auxiliary head (this recipe has another or none)"] * (theirs is not None)
            self.new += ["auxiliary head"] * (mine is not None)
        for part, into, other in parts:
            self._pixel_head(part, into, other, match)

    def _pixel_head(self, part: str, into: nn.Module, other: nn.Module, match: Match) -> None:
        """All but the last layer for any classes; that for the same ones."""
        weights = other.state_dict()
        last = [name for name in weights if name.startswith("conv_seg.")]
        if match.order is not None:
            weights |= {name: weights[name][match.order] for name in last}
            classes = len(match.order)
            self._take(f"{part} for {classes} classes", into, weights, match.note)
            return
        own = into.state_dict()
        weights |= {name: own[name] for name in last}
        self._take(f"{part} without its last layer", into, weights)
        self.left.append(f"last layer of the {part} ({match.note})")
        self.new.append(f"last layer of the {part}")


def _other_head(model: Segmenter, source: Segmenter) -> str:
    """What tells one segmentation head from another, but for the classes; empty if nothing does."""
    kinds = [type(each.config).__name__.removesuffix("Config") for each in (source, model)]
    if kinds[0] != kinds[1]:
        return f"it is a {kinds[0]}, this recipe has a {kinds[1]}"
    return _differing(
        ("out_indices", source.out_indices, model.out_indices),
        ("pools", getattr(source.config, "pools", ()), getattr(model.config, "pools", ())),
        ("head_channels", _channels(source.decode_head), _channels(model.decode_head)),
    )


def _other_auxiliary(mine: nn.Module, theirs: nn.Module) -> bool:
    assert isinstance(mine, FCNHead)
    assert isinstance(theirs, FCNHead)
    return (mine.level, _channels(mine)) != (theirs.level, _channels(theirs))


def _channels(head: nn.Module) -> int:
    assert isinstance(head, PixelClassifier)
    return head.conv_seg.in_channels


def _differing(*facts: tuple[str, object, object]) -> str:
    found: Iterable[str] = (
        f"its {name} is {theirs}, here {mine}" for name, theirs, mine in facts if theirs != mine
    )
    return "; ".join(found)
