"""`beit tokenizer compare`: several tokenizers on the same images, in a table and a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from beit.atomic_io import write_file
from beit.batch import ImageBatch, LabelledBatch
from beit.claim import claim_output
from beit.config import LoaderConfig
from beit.config.data import BY_HEADINGS, LabelFileConfig, Reading
from beit.data.augment import EvaluationView
from beit.data.dataset import open_source
from beit.data.images import check_readable
from beit.data.labelled import LabelledSplits, open_labelled
from beit.data.sources import ImageSource, evenly, is_multi_label
from beit.errors import ConfigError
from beit.evaluation.eval_loader import EvalLoader
from beit.evaluation.neighbours import neighbour_accuracy
from beit.evaluation.tokenizer import token_histograms, token_stability, tokenizer_health
from beit.hardware import find_device
from beit.report.tokenizer import ComparedTokenizer, write_tokenizers
from beit.terminal import counted
from beit.tokenizers.base import VisualTokenizer
from beit.weights.load import open_tokenizer, value_range_of

SHOWN = 6


class _Images(NamedTuple):
    """The same images for all: to measure on, and with labels to be looked up by."""

    source: ImageSource
    labelled: LabelledSplits | None
    device: torch.device


def compare_tokenizers(
    tokenizers: Sequence[str],
    *,
    data: str,
    out: str,
    images: int = 512,
    device: str = "cpu",
    label_file: LabelFileConfig = BY_HEADINGS,
) -> list[ComparedTokenizer]:
    """Measure several tokenizers on at most `images` of the images of `data`, spread evenly;
    with labels also by the nearest neighbours of token histograms. Writes tokenizers.json and
    tokenizers.html to `out`.

    Raises ConfigError if a tokenizer or a number makes no sense, RunFolderError if `out` holds
    something.
    """
    if not tokenizers or images < 1:
        raise ConfigError(
            f"{counted(len(tokenizers), 'tokenizer')} and {counted(images, 'image')} leave nothing "
            "to compare",
            remedy="name at least one tokenizer, and one image or more",
        )
    with claim_output(Path(out), folder=True) as folder:
        return _compared(tokenizers, data, folder, images, device, label_file)


def _compared(
    tokenizers: Sequence[str],
    data: str,
    folder: Path,
    images: int,
    device: str,
    label_file: LabelFileConfig,
) -> list[ComparedTokenizer]:
    """Measure, and write the results to a folder that does not exist yet."""
    place = find_device(device)
    opened = [open_tokenizer(name) for name in tokenizers]
    loaders = [LoaderConfig(workers=0, value_range=value_range_of(name)) for name in tokenizers]
    reading = Reading(label_file=label_file)
    whole = open_source(data, reading)
    whole.account.log()
    for tokenizer, loader in zip(opened, loaders, strict=True):
        check_readable(whole, tokenizer.config.channels, loader.value_range)
    one_each = whole.classes and not is_multi_label(whole)
    splits = (
        open_labelled(data, split=0.5, per_class=None, seed=0, reading=reading)
        if one_each
        else None
    )
    shared = _Images(evenly(whole, images), splits, place)
    rows = [
        _measured(name, tokenizer.to(place), shared, loader, images)
        for name, tokenizer, loader in zip(tokenizers, opened, loaders, strict=True)
    ]
    folder.mkdir()
    content = [row.figures() for row in rows]
    write_file(folder / "tokenizers.json", [json.dumps(content, indent=1).encode()])
    write_tokenizers(folder / "tokenizers.html", rows)
    return rows


def _passes(
    tokenizer: VisualTokenizer, source: ImageSource, loader: LoaderConfig
) -> EvalLoader[ImageBatch]:
    return EvalLoader(
        ImageBatch,
        source,
        EvaluationView(tokenizer.size, 1.0, labelled=False),
        size=tokenizer.size,
        channels=tokenizer.config.channels,
        loader=loader,
    )


def _measured(
    name: str,
    tokenizer: VisualTokenizer,
    shared: _Images,
    loader: LoaderConfig,
    images: int,
) -> ComparedTokenizer:
    device = shared.device
    seen = _passes(tokenizer, shared.source, loader)
    health = tokenizer_health(tokenizer, seen, device=device)
    steady = token_stability(tokenizer, seen, device=device)
    shown = next(iter(_passes(tokenizer, evenly(shared.source, SHOWN), loader))).images
    tokens = tokenizer.encode(shown.to(device))
    return ComparedTokenizer(
        name=name,
        kind=type(tokenizer).__name__,
        grid=tokenizer.grid,
        codes=tokenizer.codes,
        codes_in_use=health.codes_in_use,
        perplexity=health.perplexity,
        psnr=health.psnr if tokenizer.can_decode else None,
        flips=steady.flips,
        crops=steady.crops,
        neighbours=_looked_up(tokenizer, shared, loader, images),
        images=shown,
        tokens=tokens.cpu(),
        painted=tokenizer.decode(tokens).cpu() if tokenizer.can_decode else None,
    )


def _looked_up(
    tokenizer: VisualTokenizer, shared: _Images, loader: LoaderConfig, images: int
) -> float | None:
    """Accuracy on validation by the labels of the training images, at most so many of each."""
    if shared.labelled is None:
        return None
    found = []
    for source in (shared.labelled.train, shared.labelled.validation):
        part = evenly(source, images)
        read = _labelled(tokenizer, part, loader)
        batches_read = [ImageBatch(batch.images, batch.keys) for batch in read]
        rows = token_histograms(tokenizer, batches_read, device=shared.device)
        found.append((rows, torch.cat([batch.targets for batch in read])))
    (known, classes), (queries, right) = found
    return neighbour_accuracy(known, classes, queries, right, neighbours=min(20, len(known)))


def _labelled(
    tokenizer: VisualTokenizer, source: ImageSource, loader: LoaderConfig
) -> list[LabelledBatch]:
    return list(
        EvalLoader(
            LabelledBatch,
            source,
            EvaluationView(tokenizer.size, 1.0),
            size=tokenizer.size,
            channels=tokenizer.config.channels,
            loader=loader,
        )
    )
