"""`beit probe`: what the frozen features of every block are worth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from beit.artifact.load import open_artifact
from beit.batch import LabelledBatch
from beit.config.probe import ProbeConfig
from beit.config.tree import override, to_json
from beit.data.augment import EvaluationView
from beit.data.labelled import open_labelled
from beit.data.listing import quoted
from beit.data.sources import ImageSource, check_readable
from beit.errors import ConfigError, DataError, RunFolderError
from beit.evaluation.attentive import attentive_accuracy, train_attentive
from beit.evaluation.features import FeatureTable, extract_patches, standardised
from beit.evaluation.heads import train_heads
from beit.evaluation.linear import linear_accuracy
from beit.evaluation.neighbours import neighbour_accuracies, neighbour_accuracy
from beit.evaluation.passes import Passes
from beit.evaluation.pretraining import every_block
from beit.evaluation.probes import Chosen, Few, Probes
from beit.models.heads import BackboneModel
from beit.recipes import DEFAULT
from beit.recipes.probe import find_probe
from beit.report.probe import write_probe_page

BOTH = "linear, class token and mean"
MEAN = "linear, mean"
NEIGHBOURS = "nearest neighbours"
ATTENTIVE = "attentive"


def probe(artifact: str, recipe: str | ProbeConfig = DEFAULT, **options: object) -> Probes:
    """Measure every block of an artifact or a released model; writes probe.json and probe.html.

    `recipe` is a name or a config, which `options` change by name. Settings are chosen on
    validation; only what was chosen is measured on test, where there is a test/.
    Raises ConfigError if the model has no backbone, DataError for pictures without classes,
    RunFolderError if `out` holds something already.
    """
    config = find_probe(recipe) if isinstance(recipe, str) else recipe
    config = override(config, options)
    if not config.data or not config.out:
        raise ConfigError("data or out was not given", remedy="add --data FOLDER --out FOLDER")
    out = Path(config.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunFolderError(f"{out} exists and is not empty", remedy="choose another --out")
    opened = open_artifact(artifact)
    model = opened.model
    if not isinstance(model, BackboneModel):
        raise ConfigError(
            f"{artifact} holds a {opened.kind}, which has no backbone",
            remedy="give the run of `beit pretrain` or `beit finetune`, or a released model",
        )
    splits = open_labelled(config.data, split=config.split, per_class=None, seed=config.seed)
    sources = {"train": splits.train, "validation": splits.validation}
    sources |= {"test": splits.test} if splits.test is not None else {}
    model.to(torch.device(config.device)).eval()
    crop = opened.details.crop if config.crop is None else config.crop
    measured = _Measuring(model, sources, crop, config).run()
    out.mkdir(parents=True, exist_ok=True)
    content = {"model": artifact, "config": to_json(config), **asdict(measured)}
    (out / "probe.json").write_text(json.dumps(content, indent=1))
    write_probe_page(out / "probe.html", artifact, measured.blocks, _rows(measured))
    return measured


class _Measuring:
    """One model on one set of pictures."""

    def __init__(
        self,
        model: BackboneModel,
        sources: dict[str, ImageSource],
        crop: float,
        config: ProbeConfig,
    ) -> None:
        built = model.backbone.config
        self.model, self.config, self.device = model, config, torch.device(config.device)
        self.classes = len(sources["train"].classes)
        for source in sources.values():
            check_readable(source, built.channels)
        self.passes = {
            part: Passes(
                LabelledBatch,
                source,
                EvaluationView(built.size, crop),
                size=built.size,
                channels=built.channels,
                loader=config.loader,
            )
            for part, source in sources.items()
        }

    def run(self) -> Probes:
        """All methods, one after the other."""
        tables = {
            part: every_block(self.model, passes, self.device)
            for part, passes in self.passes.items()
        }
        unreadable = self._unreadable(tables)
        blocks: dict[str, list[float]] = {}
        chosen: list[Chosen] = []
        for method in (BOTH, MEAN):
            scores, best = self._linear(method, tables)
            blocks[method] = scores
            chosen.append(best)
        blocks[NEIGHBOURS], best = self._neighbours(tables)
        block = chosen[1].block
        chosen.append(best)
        if self.config.attentive_epochs:
            chosen.append(self._attentive(block))
        notes: list[str] = []
        few = list(self._few(tables, block, notes))
        return Probes(
            pictures={part: len(table.keys) for part, table in tables.items()},
            blocks=blocks,
            chosen=chosen,
            few=few,
            unreadable=unreadable,
            notes=notes,
        )

    def _unreadable(self, tables: dict[str, FeatureTable]) -> dict[str, str]:
        """The pictures that could not be read; DataError if they are too many."""
        passes = self.passes.values()
        lost = {found.key: found.reason for part in passes for found in part.unreadable()}
        pictures = len(lost) + sum(len(table.keys) for table in tables.values())
        if len(lost) > self.config.loader.bad_limit * pictures:
            raise DataError(
                f"{len(lost)} of {pictures} pictures cannot be read: {quoted(list(lost))}",
                remedy="mend or remove them, or raise --bad-limit",
            )
        return lost

    def _linear(self, method: str, tables: dict[str, FeatureTable]) -> tuple[list[float], Chosen]:
        """Heads of every block and learning rate at once."""
        features = {
            part: table.features
            if method == MEAN
            else torch.cat([table.cls, table.features], dim=2)
            for part, table in tables.items()
        }
        if self.config.standardise:
            features = {
                part: standardised(values, features["train"]) for part, values in features.items()
            }
        heads = train_heads(
            features["train"], tables["train"].targets, classes=self.classes, config=self.config
        )
        scores = heads.accuracy(features["validation"], tables["validation"].targets)
        block, rate = _best(scores)
        test = None
        if "test" in tables:
            test = float(heads.accuracy(features["test"], tables["test"].targets)[block, rate])
        best = Chosen(
            method=method,
            block=block,
            setting={"lr": self.config.learning_rates[rate]},
            validation=float(scores[block, rate]),
            test=test,
        )
        return scores.amax(dim=1).tolist(), best

    def _neighbours(self, tables: dict[str, FeatureTable]) -> tuple[list[float], Chosen]:
        """Every number of neighbours and temperature, block by block."""
        known, config = tables["train"], self.config

        def accuracies(
            part: str, block: int, numbers: tuple[int, ...], temperatures: tuple[float, ...]
        ) -> Tensor:
            asked = tables[part]
            return neighbour_accuracies(
                known.features[:, block],
                known.targets,
                asked.features[:, block],
                asked.targets,
                neighbours=numbers,
                temperatures=temperatures,
            )

        scores = torch.stack(
            [
                accuracies("validation", block, config.neighbours, config.temperatures).flatten()
                for block in range(known.features.shape[1])
            ]
        )
        block, place = _best(scores)
        row, column = divmod(place, len(config.temperatures))
        number, temperature = config.neighbours[row], config.temperatures[column]
        test = None
        if "test" in tables:
            test = float(accuracies("test", block, (number,), (temperature,)))
        best = Chosen(
            method=NEIGHBOURS,
            block=block,
            setting={"neighbours": float(number), "temperature": temperature},
            validation=float(scores[block, place]),
            test=test,
        )
        return scores.amax(dim=1).tolist(), best

    def _attentive(self, block: int) -> Chosen:
        """All learning rates on the patches of one block."""
        backbone = self.model.backbone
        tables = {
            part: extract_patches(backbone, passes, tap=block, device=self.device)
            for part, passes in self.passes.items()
        }
        probes = [
            train_attentive(
                tables["train"],
                heads=backbone.config.heads,
                classes=self.classes,
                rate=rate,
                config=self.config,
            )
            for rate in self.config.learning_rates
        ]
        scores = [attentive_accuracy(each, tables["validation"]) for each in probes]
        place = scores.index(max(scores))
        return Chosen(
            method=ATTENTIVE,
            block=block,
            setting={"lr": self.config.learning_rates[place]},
            validation=scores[place],
            test=attentive_accuracy(probes[place], tables["test"]) if "test" in tables else None,
        )

    def _few(self, tables: dict[str, FeatureTable], block: int, notes: list[str]) -> Iterator[Few]:
        """Few labels per class: the same draws for both methods."""
        known, asked = tables["train"], tables.get("test", tables["validation"])
        least = int(torch.bincount(known.targets, minlength=self.classes).min())
        for labels in self.config.shots:
            if labels > least:
                notes.append(f"{labels} labels per class left out: one class has {least}")
                continue
            draws = [
                _draw(known.targets, labels, self.classes, seed)
                for seed in range(self.config.seed, self.config.seed + self.config.seeds)
            ]
            for name, method in (("linear", linear_accuracy), (NEIGHBOURS, neighbour_accuracy)):
                accuracies = [
                    method(
                        known.features[rows, block],
                        known.targets[rows],
                        asked.features[:, block],
                        asked.targets,
                    )
                    for rows in draws
                ]
                yield Few(method=name, labels=labels, accuracies=accuracies)


def _best(scores: Tensor) -> tuple[int, int]:
    """Row and column of the largest score; the first of equal ones."""
    return divmod(int(scores.argmax()), scores.shape[1])


def _draw(targets: Tensor, labels: int, classes: int, seed: int) -> Tensor:
    """So many pictures of each class."""
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[targets[order] == index][:labels] for index in range(classes)])


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
        cells = ("", spread) if "test" in found.pictures else (spread, "")
        rows.append((few.method, f"{few.labels} labels per class", *cells))
    return rows


def print_table(found: Probes) -> None:
    """The best accuracy of each block on validation, what was chosen, and few labels."""
    for key, reason in found.unreadable.items():
        print(f"unreadable: {key}: {reason}")
    for note in found.notes:
        print(f"note: {note}")
    blocks = Table("block", *found.blocks)
    for block, scores in enumerate(zip(*found.blocks.values(), strict=True)):
        blocks.add_row(str(block), *(f"{score:.1%}" for score in scores))
    chosen = Table("method", "setting", "validation", "test")
    for row in _rows(found):
        chosen.add_row(*row)
    Console().print(blocks, chosen)
