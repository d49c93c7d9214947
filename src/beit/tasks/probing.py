"""`beit probe`: what the frozen features of every block are worth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch

from beit.atomic_io import write_file
from beit.batch import LabelledBatch
from beit.claim import claim_output
from beit.config.evaluate import ProbeConfig
from beit.config.tree import override, to_json
from beit.data.augment import EvaluationView
from beit.data.labelled import open_labelled
from beit.data.listing import quoted
from beit.data.sources import ImageSource, check_readable, is_multi_label
from beit.errors import ConfigError, DataError
from beit.evaluation.eval_loader import EvalLoader
from beit.evaluation.features import FeatureTable, every_block, extract_patches
from beit.evaluation.sweeps import (
    BOTH,
    MEAN,
    Chosen,
    Probes,
    Sweep,
    few_labels,
    sweep_attentive,
    sweep_linear,
    sweep_neighbours,
)
from beit.hardware import find_device
from beit.models.heads import BackboneModel
from beit.recipes import DEFAULT
from beit.recipes.probe import find_probe
from beit.report.page import write_probe_page
from beit.terminal import TextTable, print_tables, printable
from beit.training.skipped_images import allowed_unreadable
from beit.weights.load import open_artifact

SEVERAL = (
    "the images may have several labels each: linear probes are measured by mean average "
    "precision; nearest neighbours, few labels and the attentive probe, which take one class for "
    "each image, are skipped"
)


def probe(artifact: str, recipe: str | ProbeConfig = DEFAULT, **options: object) -> Probes:
    """Measure every block of an artifact or a released model; writes probe.json and probe.html.

    `recipe` is a name or a config, which `options` change by name. Settings are chosen on
    validation; only what was chosen is measured on test, where there is a test/.
    Raises ConfigError if the model has no backbone, DataError for images without classes,
    RunFolderError if `out` holds something already, ResourceError if it cannot be written to.
    """
    config = find_probe(recipe) if isinstance(recipe, str) else recipe
    config = override(config, options)
    if not config.data or not config.out:
        raise ConfigError("data or out was not given", remedy="add --data FOLDER --out FOLDER")
    with claim_output(Path(config.out), folder=True) as out:
        return _probe(artifact, config, out)


def _probe(artifact: str, config: ProbeConfig, out: Path) -> Probes:
    """Measure, and write the results to a folder that does not exist yet."""
    device = find_device(config.device)
    opened = open_artifact(artifact)
    model = opened.model
    if not isinstance(model, BackboneModel):
        raise ConfigError(
            f"{artifact} holds a {opened.kind}, which has no backbone",
            remedy="give the run of `beit pretrain` or `beit finetune`, or a released model",
        )
    splits = open_labelled(
        config.data,
        split=config.split,
        per_class=None,
        seed=config.seed,
        reading=config.reading,
        multi_label=config.multi_label,
    )
    splits.train.account.log()
    sources = {"train": splits.train, "validation": splits.validation}
    sources |= {"test": splits.test} if splits.test is not None else {}
    model.to(device).eval()
    said = opened.details
    crop = said.crop if config.crop is None else config.crop
    view = EvaluationView(model.backbone.config.size, crop, said.resize, said.interpolation)
    value_range = config.loader.value_range or said.value_range
    loader = replace(config.loader, value_range=value_range)
    measuring = _Measuring(model, sources, view, device, replace(config, loader=loader))
    measured = measuring.run()
    content = {"model": artifact, "config": to_json(config), **asdict(measured)}
    content["account"] = asdict(splits.train.account)
    out.mkdir()
    write_file(out / "probe.json", [json.dumps(content, indent=1).encode()])
    write_probe_page(
        out / "probe.html", artifact, measured.blocks, _rows(measured), measured.measure
    )
    return measured


class _Measuring:
    """One model on one set of images."""

    def __init__(
        self,
        model: BackboneModel,
        sources: dict[str, ImageSource],
        view: EvaluationView,
        device: torch.device,
        config: ProbeConfig,
    ) -> None:
        built = model.backbone.config
        self.model, self.config, self.device = model, config, device
        self.classes = len(sources["train"].classes)
        self.multi_label = is_multi_label(sources["train"])
        for source in sources.values():
            check_readable(source, built.channels, config.loader.value_range)
        self.passes = {
            part: EvalLoader(
                LabelledBatch,
                source,
                view,
                size=built.size,
                channels=built.channels,
                loader=config.loader,
            )
            for part, source in sources.items()
        }

    def run(self) -> Probes:
        """All methods, one after the other."""
        config, classes = self.config, self.classes
        tables = {
            part: every_block(self.model, passes, self.device)
            for part, passes in self.passes.items()
        }
        unreadable = self._unreadable(tables)
        linear = sweep_linear(MEAN, tables, classes=classes, config=config)
        block = linear.best.block
        sweeps = [sweep_linear(BOTH, tables, classes=classes, config=config), linear]
        if self.multi_label:
            return self._found(tables, sweeps, unreadable)
        sweeps.append(sweep_neighbours(tables, config=config))
        few = few_labels(tables, block=block, classes=classes, config=config)
        found = self._found(tables, sweeps, unreadable)
        chosen = [*found.chosen, *self._attentive(block)]
        return replace(found, chosen=chosen, few=few.rows, notes=few.notes)

    def _found(
        self,
        tables: dict[str, FeatureTable],
        sweeps: list[Sweep],
        unreadable: dict[str, str],
    ) -> Probes:
        return Probes(
            images={part: len(table.keys) for part, table in tables.items()},
            blocks={sweep.best.method: sweep.blocks for sweep in sweeps},
            chosen=[sweep.best for sweep in sweeps],
            few=[],
            unreadable=unreadable,
            several=[key for passes in self.passes.values() for key in passes.multi_frame()],
            notes=[SEVERAL] if self.multi_label else [],
            measure="mean average precision" if self.multi_label else "accuracy",
        )

    def _attentive(self, block: int) -> Iterator[Chosen]:
        """The attentive probe of one block, unless it is left out."""
        if self.config.attentive_epochs:
            backbone = self.model.backbone
            tables = {
                part: extract_patches(backbone, passes, block=block, device=self.device)
                for part, passes in self.passes.items()
            }
            yield sweep_attentive(
                tables,
                block=block,
                heads=backbone.config.heads,
                classes=self.classes,
                config=self.config,
            )

    def _unreadable(self, tables: dict[str, FeatureTable]) -> dict[str, str]:
        """The images that could not be read; DataError if they are too many."""
        passes = self.passes.values()
        lost = {found.key: found.reason for part in passes for found in part.unreadable()}
        images = len(lost) + sum(len(table.keys) for table in tables.values())
        allowed = allowed_unreadable(self.config.loader.bad_limit, images)
        if len(lost) > allowed:
            raise DataError(
                f"{len(lost)} of {images} images cannot be read, --bad-limit allows {allowed}: "
                + quoted(list(lost)),
                remedy="`beit data check` on the same data says why; mend or remove them, or raise "
                "--bad-limit",
            )
        return lost


def _rows(found: Probes) -> list[tuple[str, str, str, str]]:
    """What was chosen, and few labels: method, setting, validation, test."""
    rows = [
        (
            each.method,
            f"block {each.block}, " + ", ".join(f"{k} {v:g}" for k, v in each.setting.items()),
            f"{each.validation:.1%}",
            "" if each.test is None else f"{each.test:.1%}",
        )
        for each in found.chosen
    ]
    for few in found.few:
        spread = f"{few.mean:.1%} ± {few.deviation:.1%}"
        cells = ("", spread) if "test" in found.images else (spread, "")
        rows.append((few.method, f"{few.labels} labels per class", *cells))
    return rows


def print_table(found: Probes) -> None:
    """The best score of each block on validation, what was chosen, and few labels."""
    for key, reason in found.unreadable.items():
        print(printable(f"unreadable: {key}: {reason}"))
    for key in found.several:
        print(printable(f"first of several in its file: {key}"))
    for note in found.notes:
        print(printable(f"note: {note}"))
    print(f"scores: {found.measure}; of each block the best on validation")
    blocks = TextTable("block", *found.blocks)
    for block, scores in enumerate(zip(*found.blocks.values(), strict=True)):
        blocks.add_row(str(block), *(f"{score:.1%}" for score in scores))
    chosen = TextTable("method", "setting", "validation", "test")
    for row in _rows(found):
        chosen.add_row(*row)
    print_tables(blocks, chosen)
