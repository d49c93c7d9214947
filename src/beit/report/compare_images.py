"""What a run makes of some images, image by image, to hold runs against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from beit.batch import LabelledBatch
from beit.config.runs import FinetuneRunConfig, PretrainRunConfig, RunConfig, TokenizerRunConfig
from beit.config.segment_run import SegmentRunConfig
from beit.data.augment import EvaluationView
from beit.data.sources import ImageSource
from beit.data.visualize import judge, overlay_labels, to_rgb, token_map
from beit.models.heads import Classifier
from beit.models.segmenter import Segmenter
from beit.report import classification, multilabel, segmentation
from beit.report.images import show
from beit.report.markup import Markup, element, join, percent
from beit.report.pretraining import make_guesses, predicts
from beit.report.samples import batches, named
from beit.report.tokenizer import make_paintings
from beit.report.trained import trained

SURE = 3
"""Classes shown of a classifier's answer."""


class Answered(NamedTuple):
    """An image, with the truth where there is one, and what a run makes of it."""

    image: Markup
    answer: Markup


class Contender(NamedTuple):
    """The names of the images that a run can be asked about, and its answers to some of them."""

    keys: Sequence[str]
    answers: Callable[[Sequence[str]], dict[str, Answered]]


def no_images(_run: Path, _config: RunConfig) -> Contender:
    """A run that cannot be asked about single images."""
    return _known({})


def _known(found: dict[str, Answered]) -> Contender:
    return Contender(list(found), lambda keys: {key: found[key] for key in keys})


def _names(source: ImageSource) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def classifier_contender(run: Path, config: FinetuneRunConfig) -> Contender:
    """A classifier answers to its held-out images.

    Errors: BeitError if the artifact or the images are not there, or the classes have changed.
    """
    published = trained(run, Classifier)
    model, classes, device = published.model, published.classes, published.device
    source = classification.held_out(config, classes)
    view = EvaluationView(config.model.size, config.crop)

    def labels(keys: Sequence[str]) -> dict[str, Answered]:
        wanted = named(source, keys)
        depth = config.loader.value_range
        found = multilabel.answer_images(model, published.answering, wanted, view, device, depth)
        read = batches(LabelledBatch, wanted, view, config.model.channels, depth)
        images = [image for batch in read for image in batch.images]
        answered = {}
        for index, (key, image) in enumerate(zip(found.keys, images, strict=True)):
            truth = found.answers.targets[index]
            said = element("b", "right" if found.wrong[index] < 0 else "wrong")
            lines = multilabel.bars(found.answers.probabilities[index], truth, found.reads)
            shown = show(to_rgb(image), multilabel.alt_of(truth, found.reads))
            answered[key] = Answered(shown, join([said, lines]))
        return answered

    def answers(keys: Sequence[str]) -> dict[str, Answered]:
        wanted = named(source, keys)
        found = classification.answer(model, wanted, view, device, config.loader.value_range)
        read = batches(
            LabelledBatch, wanted, view, config.model.channels, config.loader.value_range
        )
        images = [image for batch in read for image in batch.images]
        answered = {}
        for index, (key, image) in enumerate(zip(found.keys, images, strict=True)):
            truth = int(found.targets[index])
            row = found.probabilities[index]
            best = row.argsort(descending=True)[:SURE].tolist()
            lines = [
                element("li", [element("b" if label == truth else "span", classes[label]),
                               f" {percent(float(row[label]))}"])
                for label in best
            ]  # fmt: skip
            said = element("b", "right" if best[0] == truth else "wrong")
            shown = show(to_rgb(image), f"An image of {classes[truth]}", f"is {classes[truth]}")
            answered[key] = Answered(shown, join([said, element("ol", lines)]))
        return answered

    return Contender(_names(source), labels if published.answering.multi_label else answers)


def segmenter_contender(run: Path, config: SegmentRunConfig) -> Contender:
    """A segmenter answers to its held-out images. Errors: as for a classifier."""
    published = trained(run, Segmenter)
    source = segmentation.held_out(config, published.classes)

    def answers(keys: Sequence[str]) -> dict[str, Answered]:
        answered = {}
        for one in segmentation.answers(published.model, named(source, keys), config):
            image = to_rgb(one.image)
            truth = overlay_labels(image, one.labels.numpy())
            words = f"{percent(one.scores.pixel_accuracy)} right"
            answered[one.key] = Answered(
                join([show(image, "The image", "image"), show(truth, "Its mask", "mask")]),
                show(overlay_labels(image, one.predicted.numpy()), f"Its labels, {words}", words),
            )
        return answered

    return Contender(_names(source), answers)


def tokenizer_contender(run: Path, config: TokenizerRunConfig) -> Contender:
    """A tokenizer rebuilds images. Errors: BeitError if its artifact or they are not there."""
    tokenizer, paintings = make_paintings(run, config)
    found = {}
    for one in paintings:
        if one.painted is None:
            mapped = token_map(one.tokens, tokenizer.grid, tokenizer.codes)
            answer = show(mapped, "The tokens, a colour per code", "tokens")
        else:
            answer = show(to_rgb(one.painted), "From its tokens", f"{one.psnr:.1f} dB")
        found[one.key] = Answered(show(to_rgb(one.image), "The image", "image"), answer)
    return _known(found)


def pretraining_contender(run: Path, config: PretrainRunConfig) -> Contender:
    """A pre-training predicts the tokens of hidden patches, if it predicts tokens at all.

    Errors: BeitError if the artifact, its tokenizer or the images are not there.
    """
    if config.objective.target != "tokens" or not predicts(config):
        return _known({})
    _, tokenizer, guesses = make_guesses(run, config)
    assert tokenizer is not None
    found = {}
    for one in guesses:
        image = to_rgb(one.image)
        words = f"{percent(one.score)} of {int(one.hidden.sum())} tokens right"
        judged = judge(image, one.hidden, one.prediction == one.target, tokenizer.grid)
        answer = show(judged, f"Right (teal) and wrong (orange): {words}", words)
        found[one.key] = Answered(show(image, "The image", "image"), answer)
    return _known(found)
