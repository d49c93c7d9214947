"""`beit probe`: what the frozen features of every block are worth."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Unpack

import numpy as np
import torch

from beit.atomic_io import write_file
from beit.batch import LabelledBatch
from beit.claim import claim_output
from beit.config.data import Division
from beit.config.evaluate import ProbeConfig
from beit.config.options import ProbeOptions
from beit.config.tree import override, to_json
from beit.data.augment import EvaluationView
from beit.data.dataset import Dataset
from beit.data.images import check_readable
from beit.data.labelled import divide
from beit.data.sources import ImageSource, evenly, is_multi_label, select
from beit.errors import ConfigError, DataError
from beit.evaluation.baselines import TRIVIAL, Baselines, compare, untrained_like
from beit.evaluation.eval_loader import BATCH, EvalLoader
from beit.evaluation.features import (
    FeatureTable,
    Patches,
    PatchStream,
    PooledBlocks,
    every_block,
    extract_features,
    extract_patches,
)
from beit.evaluation.probe import CPU, linear_answers
from beit.evaluation.rows import on_disk
from beit.evaluation.sweeps import (
    BOTH,
    MEAN,
    NEIGHBOURS,
    Chosen,
    Few,
    Probes,
    Stored,
    Sweep,
    few_labels,
    sweep_attentive,
    sweep_linear,
    sweep_neighbours,
)
from beit.hardware import find_device, free_memory
from beit.models.heads import BackboneModel
from beit.recipes import DEFAULT, find_recipe
from beit.report.probes import write_probes
from beit.terminal import quoted
from beit.training.skipped_images import allowed_unreadable
from beit.weights.load import open_artifact

logger = logging.getLogger(__name__)

SEVERAL = (
    "the images may have several labels each: linear probes are measured by mean average "
    "precision; nearest neighbours, few labels and the attentive probe, which take one class for "
    "each image, are skipped"
)


def probe(
    artifact: str, recipe: str | ProbeConfig = DEFAULT, **options: Unpack[ProbeOptions]
) -> Probes:
    """Measure every block of a model on frozen features; write probe.json and probe.html.

    Settings are chosen on validation; only what was chosen is measured on test, if there is a
    test/.

    Args:
        artifact: A run, an artifact or a released model.
        recipe: A recipe's name, `module:function`, or a config.
        options: Changes to the config by name, such as `data` and `out`.

    Raises:
        ConfigError: The model has no backbone, or an option is wrong.
        DataError: The images have no classes, or cannot be read.
        RunFolderError: `out` holds something already.
        ResourceError: `out` cannot be written to.
    """
    config = find_recipe("probe", recipe, ProbeConfig) if isinstance(recipe, str) else recipe
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
    data = Dataset(config.data, config.reading)
    division = Division(config.split, config.seed, groups=config.groups)
    splits = divide(data, division, multi_label=config.multi_label)
    splits.train.account.log()
    sources = {"train": splits.train, "validation": splits.validation}
    sources |= {"test": splits.test} if splits.test is not None else {}
    model.to(device).eval()
    details = opened.details
    view = details.view(model.backbone.config.size, crop=config.crop, labelled=True)
    value_range = config.loader.value_range or details.value_range
    loader = replace(config.loader, value_range=value_range)
    measuring = _Measuring(model, sources, view, device, replace(config, loader=loader))
    measured = measuring.run()
    content = {"model": artifact, "config": to_json(config), **asdict(measured)}
    content["account"] = asdict(splits.train.account)
    out.mkdir()
    write_file(out / "probe.json", [json.dumps(content, indent=1).encode()])
    write_probes(out / "probe.html", artifact, measured)
    return measured


def memory_bound(gigabytes: float | None) -> float:
    """Bytes that features may take: the given gigabytes, or half of the free memory."""
    if gigabytes is not None:
        return gigabytes * 1e9
    free = free_memory()
    return math.inf if free is None else free / 2


class _Measuring:
    """The measurement of one model on one set of images."""

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
        self.sources, self.view = sources, view
        self.passes = {part: self._pass(source) for part, source in sources.items()}
        self.bound = memory_bound(config.memory)
        needed = 4 * self._numbers() * sum(map(len, sources.values()))
        self.sampled = min(self.bound / needed, 1.0)
        """Fraction of the images for which the features of all blocks fit into memory."""
        logger.info(
            "%s images x %d blocks x %d numbers take %.1f GB, of %.1f GB (--memory)",
            f"{sum(map(len, sources.values())):,}", built.depth, built.width, needed / 1e9,
            self.bound / 1e9,
        )  # fmt: skip

    def _pass(self, source: ImageSource, batch: int = BATCH) -> EvalLoader[LabelledBatch]:
        built = self.model.backbone.config
        return EvalLoader(
            LabelledBatch,
            source,
            self.view,
            size=built.size,
            channels=built.channels,
            loader=self.config.loader,
            batch=batch,
        )

    def _numbers(self) -> int:
        """How many numbers are kept of each image if all blocks are kept."""
        built = self.model.backbone.config
        kept = 2 * built.depth * built.width
        if self.config.baselines:
            image = torch.zeros(1, built.channels, *built.size, dtype=torch.uint8)
            kept += sum(features(image).shape[1] for features in TRIVIAL.values())
            kept += built.depth * built.width
        return kept

    def run(self) -> Probes:
        """All methods, one after the other."""
        config, classes = self.config, self.classes
        passes, notes = self.passes, list[str]()
        if self.sampled < 1:
            least = 4 * classes
            some = {
                part: evenly(source, max(int(self.sampled * len(source)), least))
                for part, source in self.sources.items()
            }
            passes = {part: self._pass(source) for part, source in some.items()}
            notes.append(
                "blocks were chosen, and baselines compared, on "
                + ", ".join(f"{len(source):,} images for {part}" for part, source in some.items())
                + "; the chosen blocks were then measured on all"
            )
        tables, baselines = self._tables(passes)
        linear = sweep_linear(MEAN, tables, classes=classes, config=config)
        sweeps = [sweep_linear(BOTH, tables, classes=classes, config=config), linear]
        if not self.multi_label:
            sweeps.append(sweep_neighbours(tables, config=config))
        block, compared, shown = linear.best.block, [sweep.best for sweep in sweeps], tables
        trivial = [
            replace(
                sweep_linear(MEAN, found, classes=classes, config=config).best,
                method=f"{name}, linear",
            )
            for name, found in baselines.items()
        ]
        if self.sampled < 1:
            stored = self._stored({sweep.best.block for sweep in sweeps})
            sweeps = [self._on_all(sweep, stored) for sweep in sweeps]
            shown = stored[block]
        found = Probes(
            images={part: len(table.keys) for part, table in shown.items()},
            blocks={sweep.best.method: sweep.blocks for sweep in sweeps},
            chosen=[sweep.best for sweep in sweeps],
            few=[],
            baselines=trivial,
            few_baselines=[],
            unreadable=self._unreadable(shown),
            several=[key for passes in self.passes.values() for key in passes.skips.multi_frame],
            notes=notes,
            measure="mean average precision" if self.multi_label else "accuracy",
        )
        if self.multi_label:
            return replace(found, notes=[SEVERAL, *notes])
        few = few_labels(
            shown, block=block if shown is tables else 0, classes=classes, config=config
        )
        attentive = list(self._attentive(block))
        if self.sampled == 1:
            compared += attentive
        verdict = _verdict(compared, trivial, tables) if trivial else ()
        return replace(
            found,
            chosen=[*found.chosen, *attentive],
            few=few.rows,
            few_baselines=list(self._few_baselines(baselines, trivial)),
            notes=[*notes, *few.notes, *verdict],
        )

    def _stored(self, blocks: set[int]) -> dict[int, dict[str, FeatureTable]]:
        """The features of all images at some blocks, on the same disk as the results."""
        indices, folder = tuple(sorted(blocks)), Path(self.config.out).absolute().parent
        found: dict[int, dict[str, FeatureTable]] = {block: {} for block in indices}
        for part, batches in self.passes.items():
            shape = (len(self.sources[part]), len(indices), self.model.backbone.config.width)
            table = extract_features(
                self.model.backbone,
                batches,
                out_indices=indices,
                device=self.device,
                into=PooledBlocks(on_disk(shape, folder), on_disk(shape, folder)),
            )
            for at, block in enumerate(indices):
                found[block][part] = table._replace(
                    features=table.features[:, at : at + 1], cls=table.cls[:, at : at + 1]
                )
        return found

    def _on_all(self, sweep: Sweep, stored: dict[int, dict[str, FeatureTable]]) -> Sweep:
        """The sweep with its best block measured on all images."""
        method, block = sweep.best.method, sweep.best.block
        tables, config, device = stored[block], self.config, self.device
        if method == NEIGHBOURS:
            found = sweep_neighbours(tables, config=config, device=device)
        else:
            found = sweep_linear(
                method,
                tables,
                classes=self.classes,
                config=config,
                stored=Stored(self.model.backbone.config.depth, (block,)),
                device=device,
            )
        return sweep._replace(best=replace(found.best, block=block))

    def _tables(
        self, passes: Mapping[str, EvalLoader[LabelledBatch]]
    ) -> tuple[dict[str, FeatureTable], dict[str, dict[str, FeatureTable]]]:
        """The features of every part, and those of every baseline."""
        tables: dict[str, FeatureTable] = {}
        baselines: dict[str, dict[str, FeatureTable]] = {}
        if not self.config.baselines:
            for part, batches in passes.items():
                tables[part] = every_block(self.model, batches, self.device)
            return tables, baselines
        untrained = untrained_like(self.model.backbone.config, self.config.seed).to(self.device)
        for part, batches in passes.items():
            trivial = Baselines(untrained, self.device)
            tables[part] = every_block(self.model, trivial.passing(batches), self.device)
            for name, table in trivial.tables(tables[part]).items():
                baselines.setdefault(name, {})[part] = table
        return tables, baselines

    def _few_baselines(
        self, baselines: dict[str, dict[str, FeatureTable]], chosen: list[Chosen]
    ) -> Iterator[Few]:
        """Linear probes of the baselines with few labels, at the block that was best for each."""
        for (name, tables), best in zip(baselines.items(), chosen, strict=True):
            yield from few_labels(
                tables,
                block=best.block,
                classes=self.classes,
                config=self.config,
                methods={f"{name}, linear": linear_answers},
            ).rows

    def _attentive(self, block: int) -> Iterator[Chosen]:
        """The attentive probe of one block, unless it is left out."""
        if self.config.attentive_epochs:
            backbone = self.model.backbone
            height, width = backbone.config.grid
            each = 2 * height * width * backbone.config.width
            fits = each * sum(map(len, self.sources.values())) <= self.bound
            patches: dict[str, Patches] = {
                part: extract_patches(backbone, passes, block=block, device=self.device)
                if fits
                else self._read_again(part, block)
                for part, passes in self.passes.items()
            }
            yield sweep_attentive(
                patches,
                block=block,
                heads=backbone.config.heads,
                classes=self.classes,
                config=self.config,
                device=CPU if fits else self.device,
            )

    def _read_again(self, part: str, block: int) -> PatchStream:
        """The patches of all images that could be read before, computed anew in every pass."""
        source = self.sources[part]
        lost = {found.key for found in self.passes[part].skips.unreadable}
        readable = np.array(
            [at for at in range(len(source)) if not lost or source.key(at) not in lost], np.int64
        )

        def read(places: np.ndarray, batch: int) -> EvalLoader[LabelledBatch]:
            return self._pass(select(source, places), batch)

        backbone, device = self.model.backbone, self.device
        return PatchStream(backbone, read, readable, block=block, device=device)

    def _unreadable(self, tables: dict[str, FeatureTable]) -> dict[str, str]:
        """The images that could not be read, with reasons. Raises DataError for too many."""
        passes = self.passes.values()
        lost = {found.key: found.reason for part in passes for found in part.skips.unreadable}
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


def _verdict(
    chosen: list[Chosen], baselines: list[Chosen], tables: dict[str, FeatureTable]
) -> Iterator[str]:
    """What the scores say about the features, on test or, if there is none, on validation."""

    def score(each: Chosen) -> float:
        return each.validation if each.test is None else each.test

    best, trivial = max(chosen, key=score), max(baselines, key=score)
    targets = tables.get("test", tables["validation"]).targets
    frequent = float((targets == tables["train"].targets.bincount().argmax()).float().mean())
    found = compare(
        (f"best probe ({best.method})", score(best)),
        (trivial.method, score(trivial)),
        frequent,
        len(targets),
    )
    yield found.text
    if not found.beyond:
        yield (
            "these features are not clearly better than the baseline here: pre-train longer or on "
            "more images, start from a released model, or check that the classes differ in "
            "more than such a baseline can see"
        )
