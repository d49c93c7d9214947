"""Start a model from another one: which of its weights are kept, and which are not and why.

All verbs use this. As in the published chains of training (beit-reference, section 5.3; sections 6
and 8), the backbone is always kept, the final norm where the next model has it in the same place,
and a head where it gives the same answers: the same classes, or the tokens of the same tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from beit.models.heads import BackboneModel, Classifier, MaskedImageModel
from beit.models.segmenter import Segmenter
from beit.models.upernet import FCNHead, PixelClassifier
from beit.terminal import counted, printable
from beit.weights.store import Artifact, Details
from beit.weights.transfer import Match, load_strictly, match_classes, resize_positions, start_from


@dataclass(frozen=True)
class WarmStart:
    """What became of the parts of a model that another one was started from."""

    taken: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    """Parts that were not taken, each with the reason."""
    new: tuple[str, ...] = ()
    """Parts of the started model that have their initial weights."""

    def __add__(self, other: WarmStart) -> WarmStart:
        return WarmStart(self.taken + other.taken, self.left + other.left, self.new + other.new)

    def lines(self, source: str) -> Iterator[str]:
        """Lines for a terminal or a log: one for what was taken, one for what was not, and one for
        what is new if anything is. `source` names where the weights come from."""
        name = printable(source)
        yield f"taken from {name}: {', '.join(self.taken)}"
        yield f"not taken from {name}: {', '.join(self.left) or 'nothing'}"
        if self.new:
            yield f"new, with initial weights: {', '.join(self.new)}"


OF_PRETRAINING = {
    "head": "prediction head",
    "aggregation": "patch aggregation",
    "projection": "projection of class tokens",
}
"""Parts of a model that predicts masked patches. No artifact holds the projection."""


class Side(NamedTuple):
    """A model, and what its artifact says or will say."""

    model: BackboneModel
    details: Details


def warm_start(model: BackboneModel, details: Details, source: Artifact) -> WarmStart:
    """Load into a new model what an artifact or a released file has for it.

    Args:
        model: The model to be trained, with its initial weights; changed in place.
        details: What the model's own artifact will state: the classes, the digest of the tokenizer.
        source: Another model with a backbone of the same architecture; not changed.

    Returns:
        What was taken, what was not and why, and what is new.

    Raises:
        CheckpointError: The backbones differ in architecture.
    """
    other = source.model
    assert isinstance(other, BackboneModel)
    mine, theirs = Side(model, details), Side(other, source.details)
    return _backbone(model, other) + _norm(model, other) + _head(mine, theirs)


def _take(part: str, into: nn.Module, weights: dict[str, Tensor], note: str = "") -> WarmStart:
    load_strictly(into, weights)
    return WarmStart(taken=(part + (f" ({note})" if note else ""),))


def _leave(source: BackboneModel, why: str, model: BackboneModel) -> WarmStart:
    """Take nothing of the source's head; the model keeps its new one."""
    left = tuple(f"{part} ({why})" for part in _head_parts(source))
    return WarmStart(left=left, new=_head_parts(model))


def _head_parts(model: BackboneModel) -> tuple[str, ...]:
    """What a model has beside its backbone and final norm."""
    if isinstance(model, Classifier):
        return (f"head for {model.head.out_features} classes",)
    parts = [name for name, _ in model.named_children() if name not in ("backbone", "norm")]
    words = OF_PRETRAINING if isinstance(model, MaskedImageModel) else {}
    return tuple(words.get(name, name.replace("_", " ")) for name in parts)


def _backbone(model: BackboneModel, source: BackboneModel) -> WarmStart:
    found = start_from(model.backbone, source.backbone.state_dict(), source.backbone.config)
    taken = "backbone" + (f" ({'; '.join(found.changed)})" if found.changed else "")
    left = ("mask token (this backbone sees no masked patches)",) if found.left else ()
    return WarmStart((taken,), left)


def _norm(model: BackboneModel, source: BackboneModel) -> WarmStart:
    """Take the final norm if it is in the same place: `norm` and `fc_norm` of the published files
    are not interchangeable."""
    own, other = getattr(model, "norm", None), getattr(source, "norm", None)
    mine, theirs = (
        "" if norm is None
        else "mean" if isinstance(each, Classifier) and each.pooling == "mean"
        else "tokens"
        for each, norm in ((model, own), (source, other))
    )  # fmt: skip
    if mine and mine == theirs:
        assert isinstance(own, nn.Module)
        assert isinstance(other, nn.Module)
        return _take("final norm", own, other.state_dict())
    new = ("final norm",) if mine else ()
    if not theirs:
        return WarmStart(new=new)
    both = isinstance(model, Classifier) and isinstance(source, Classifier)
    if not mine:
        segments = isinstance(model, Segmenter)
        why = "a segmentation head reads blocks without it" if segments else "none is here"
    elif mine == "mean":
        why = "there it comes before pooling, here after the mean of the patches"
        why += "; --pooling cls keeps it" * both
    else:
        why = "there it comes after the mean of the patches, which is not taken here"
        why += "; --pooling mean keeps it" * both
    return WarmStart(left=(f"final norm ({why})",), new=new)


def _head(mine: Side, theirs: Side) -> WarmStart:
    model, source = mine.model, theirs.model
    if isinstance(model, MaskedImageModel) and isinstance(source, MaskedImageModel):
        same, note = _same_targets(mine, theirs)
        return _prediction(model, source, note) if same else _leave(source, note, model)
    if isinstance(model, Classifier) and isinstance(source, Classifier):
        return _classifier(model, source, _match(mine, theirs))
    if isinstance(model, Segmenter) and isinstance(source, Segmenter):
        why = _other_head(model, source)
        if why:
            return _leave(source, why, model)
        return _segmenter(model, source, _match(mine, theirs))
    return _leave(source, "of another task", model)


# -- classification --------------------------------------------------------------------------------


def _match(mine: Side, theirs: Side) -> Match:
    if mine.details.multi_label != theirs.details.multi_label:
        answers = {True: "several classes for an image", False: "one class for each image"}
        return Match(None, f"it answers {answers[theirs.details.multi_label]}, this run learns "
                     f"{answers[mine.details.multi_label]}")  # fmt: skip
    return match_classes(theirs.details.classes, mine.details.classes)


def _classifier(model: Classifier, source: Classifier, match: Match) -> WarmStart:
    if model.pooling != source.pooling:
        reads = "class token" if source.pooling == "cls" else "mean of the patches"
        return _leave(source, f"it reads the {reads}; --pooling {source.pooling} keeps it", model)
    if match.order is None:
        return _leave(source, match.note, model)
    rows = {name: value[match.order] for name, value in source.head.state_dict().items()}
    return _take(_head_parts(model)[0], model.head, rows, match.note)


# -- pre-training ----------------------------------------------------------------------------------


def _same_targets(mine: Side, theirs: Side) -> tuple[bool, str]:
    """Whether both predict the same targets for a hidden patch; and how this is known, or why
    not."""
    model, source = mine.model, theirs.model
    assert isinstance(model, MaskedImageModel)
    assert isinstance(source, MaskedImageModel)
    other, config = model.backbone.config, source.backbone.config
    learned, known = mine.details.tokenizer, theirs.details.tokenizer
    pixels = not known and source.outputs == config.patch**2 * config.channels
    if pixels or not learned:
        if pixels == bool(learned):
            return False, f"it predicts {'pixels, not tokens' if pixels else 'tokens'}"
        same = (other.mean, other.std) == (config.mean, config.std)
        return same, "" if same else "it predicts pixels of another mean and std"
    if known:
        return known == learned, "" if known == learned else "it predicts another tokenizer's codes"
    if source.outputs != model.outputs:
        return False, f"it predicts {source.outputs} codes, this tokenizer has {model.outputs}"
    return True, (
        f"by its vocabulary of {source.outputs} codes: the file does not say by which "
        "tokenizer it was trained"
    )


def _prediction(model: MaskedImageModel, source: MaskedImageModel, note: str) -> WarmStart:
    start = _take("prediction head", model.head, source.head.state_dict(), note)
    known = ("prediction head", "patch aggregation")
    start += WarmStart(new=tuple(part for part in _head_parts(model) if part not in known))
    own, other = model.aggregation, source.aggregation
    new = ("patch aggregation",) if own is not None else ()
    if other is None:
        return start + WarmStart(new=new)
    grids = source.backbone.config, model.backbone.config
    why = ""
    if own is None:
        why = f"this recipe has none; --early-layer {other.config.early_layer} keeps it"
    elif own.config != other.config:
        options = f"--early-layer {other.config.early_layer} --blocks {other.config.blocks}"
        why = f"this recipe has another; {options} and its kind of head keep it"
    elif grids[0].relative_position != grids[1].relative_position:
        why = "its blocks have another relative position bias"
    if own is None or why:
        return start + WarmStart(left=(f"patch aggregation ({why})",), new=new)
    return start + _take("patch aggregation", own, resize_positions(other.state_dict(), *grids))


# -- segmentation ----------------------------------------------------------------------------------


def _other_head(model: Segmenter, source: Segmenter) -> str:
    """How two segmentation heads differ apart from their classes; empty if they do not."""
    kinds = [type(each.config).__name__.removesuffix("Config") for each in (source, model)]
    if kinds[0] != kinds[1]:
        return f"it is a {kinds[0]}, this recipe has a {kinds[1]}"
    theirs, mine = (
        {
            "out_indices": each.out_indices,
            "pools": getattr(each.config, "pools", ()),
            "head_channels": _channels(each.decode_head),
        }
        for each in (source, model)
    )
    return "; ".join(f"its {name} is {theirs[name]}, here {mine[name]}"
                     for name in mine if theirs[name] != mine[name])  # fmt: skip


def _channels(head: nn.Module) -> int:
    assert isinstance(head, PixelClassifier)
    return head.conv_seg.in_channels


def _segmenter(model: Segmenter, source: Segmenter, match: Match) -> WarmStart:
    start = _take("neck", model.neck, source.neck.state_dict())
    start += _pixel_head("decode head", model.decode_head, source.decode_head, match)
    own, other = model.auxiliary_head, source.auxiliary_head
    if isinstance(own, FCNHead) and isinstance(other, FCNHead):
        same = (own.level, _channels(own)) == (other.level, _channels(other))
        if same:
            return start + _pixel_head("auxiliary head", own, other, match)
    left = ("auxiliary head (this recipe has another or none)",) if other is not None else ()
    return start + WarmStart(left=left, new=("auxiliary head",) if own is not None else ())


def _pixel_head(part: str, into: nn.Module, other: nn.Module, match: Match) -> WarmStart:
    """Take all but the last layer for any classes, and the last layer for the same classes only."""
    weights = other.state_dict()
    last = [name for name in weights if name.startswith("conv_seg.")]
    if match.order is not None:
        weights |= {name: weights[name][match.order] for name in last}
        return _take(f"{part} for {counted(len(match.order), 'class')}", into, weights, match.note)
    own = into.state_dict()
    weights |= {name: own[name] for name in last}
    layer = f"last layer of the {part}"
    return _take(f"{part} without its last layer", into, weights) + WarmStart(
        left=(f"{layer} ({match.note})",), new=(layer,)
    )
