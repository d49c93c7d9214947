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
from beit.config.data import AS_RECOGNISED, Division, Reading
from beit.data.augment import EvaluationView
from beit.data.dataset import Dataset
from beit.data.images import check_readable
from beit.data.labelled import LabelledSplits, divide
from beit.data.sources import ImageSource, evenly, is_multi_label
from beit.errors import ConfigError
from beit.evaluation.eval_loader import EvalLoader, Kind
from beit.evaluation.metrics import fraction_right
from beit.evaluation.neighbours import neighbour_answers
from beit.evaluation.tokenizer import token_histograms, token_stability, tokenizer_health
from beit.hardware import find_device
from beit.report.tokenizer import ComparedTokenizer, write_tokenizers
from beit.terminal import counted
from beit.tokenizers.base import VisualTokenizer
from beit.weights.load import open_tokenizer, value_range_of

SHOWN = 6


class _Images(NamedTuple):
    """The images that all tokenizers share: to measure on, and labelled ones for nearest
    neighbours."""

    source: ImageSource
    labelled: LabelledSplits | None
    most: int
    """Most images that are measured on, and most of each labelled split."""
    device: torch.device


def compare_tokenizers(
    tokenizers: Sequence[str],
    *,
    data: str,
    out: str,
    images: int = 512,
    device: str = "cpu",
    reading: Reading = AS_RECOGNISED,
) -> list[ComparedTokenizer]:
    """Measure several tokenizers on the same images and write tokenizers.json and tokenizers.html.

    With labels, they are also measured by the nearest neighbours of token histograms.

    Args:
        tokenizers: Runs, artifacts or released tokenizers.
        data: Images, in any form that training takes.
        out: Folder to write; it must be empty or not exist yet.
        images: Most images to measure on, spread evenly over the data; with labels, of each split.
        device: cpu, cuda, mps, or auto: a GPU if there is one.
        reading: How the data are read, if they leave it open.

    Returns:
        One result for each tokenizer, in the order given.

    Raises:
        ConfigError: No tokenizer or no image is left to compare, or a tokenizer makes no sense.
        DataError: The images cannot be read.
        RunFolderError: `out` holds something.
    """
    if not tokenizers or images < 1:
        raise ConfigError(
            f"{counted(len(tokenizers), 'tokenizer')} and {counted(images, 'image')} leave nothing "
            "to compare",
            remedy="name at least one tokenizer, and one image or more",
        )
    with claim_output(Path(out), folder=True) as folder:
        place = find_device(device)
        opened = [open_tokenizer(name) for name in tokenizers]
        loaders = [LoaderConfig(workers=0, value_range=value_range_of(name)) for name in tokenizers]
        dataset = Dataset(data, reading)
        whole = dataset.training()
        whole.account.log()
        for tokenizer, loader in zip(opened, loaders, strict=True):
            check_readable(whole, tokenizer.config.channels, loader.value_range)
        splits = None
        if whole.classes and not is_multi_label(whole):
            splits = divide(dataset, Division(split=0.5, seed=0))
        shared = _Images(evenly(whole, images), splits, images, place)
        rows = [
            _measured(name, tokenizer.to(place), loader, shared)
            for name, tokenizer, loader in zip(tokenizers, opened, loaders, strict=True)
        ]
        folder.mkdir()
        content = [row.figures() for row in rows]
        write_file(folder / "tokenizers.json", [json.dumps(content, indent=1).encode()])
        write_tokenizers(folder / "tokenizers.html", rows)
        return rows


def _passes(
    kind: type[Kind], tokenizer: VisualTokenizer, source: ImageSource, loader: LoaderConfig
) -> EvalLoader[Kind]:
    return EvalLoader(
        kind,
        source,
        EvaluationView(tokenizer.size, 1.0, labelled=kind is LabelledBatch),
        size=tokenizer.size,
        channels=tokenizer.config.channels,
        loader=loader,
    )


def _measured(
    name: str, tokenizer: VisualTokenizer, loader: LoaderConfig, shared: _Images
) -> ComparedTokenizer:
    device = shared.device
    seen = _passes(ImageBatch, tokenizer, shared.source, loader)
    health = tokenizer_health(tokenizer, seen, device=device)
    steady = token_stability(tokenizer, seen, device=device)
    few = evenly(shared.source, SHOWN)
    shown = next(iter(_passes(ImageBatch, tokenizer, few, loader))).images
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
        neighbours=_looked_up(tokenizer, loader, shared),
        images=shown,
        tokens=tokens.cpu(),
        painted=tokenizer.decode(tokens).cpu() if tokenizer.can_decode else None,
    )


def _looked_up(tokenizer: VisualTokenizer, loader: LoaderConfig, shared: _Images) -> float | None:
    """Accuracy on validation images, each answered by the labels of the training images with the
    most similar tokens; None without labels."""
    if shared.labelled is None:
        return None
    found = []
    for source in (shared.labelled.train, shared.labelled.validation):
        read = list(_passes(LabelledBatch, tokenizer, evenly(source, shared.most), loader))
        rows = token_histograms(tokenizer, read, device=shared.device)
        found.append((rows, torch.cat([batch.targets for batch in read])))
    (known, classes), (queries, right) = found
    answers = neighbour_answers(known, classes, queries, neighbours=min(20, len(known)))
    return fraction_right(answers, right)
