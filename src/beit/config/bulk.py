"""`beit embed` and `beit predict`: which images a finished model processes, and how."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from beit.config.data import AS_RECOGNISED, DataConfig, LoaderConfig, Workers
from beit.config.validation import PositiveInt, Range, require

InferencePrecision = Literal["fp32", "bf16", "int8", "auto"]
PART = re.compile(r"([1-9]\d{0,8})/([1-9]\d{0,8})")


class Part(NamedTuple):
    """One process among those that divide the images: the `number`-th of `total`, from 1."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}-of-{self.total}"


@dataclass(frozen=True, kw_only=True)
class BulkConfig(DataConfig):
    """Which images, and how they are processed."""

    data: str = ""
    """Images in any form that training takes (a folder, a label file, shards, hf:NAME, Parquet),
    instead of images named one by one."""
    split: str = ""
    """Split to read, if the data has splits; all by default."""
    batch: PositiveInt | None = None
    """Images at a time; by default as many as fit into the device's memory."""
    device: str = "auto"
    """cpu, cuda, mps, or auto: a GPU if there is one."""
    precision: InferencePrecision = "fp32"
    """Number format of the model: fp32 gives the same answers up to rounding; auto is bf16 where it
    is fast."""
    compile: bool = False
    """Compile the model, which takes up to minutes and pays off for thousands of images."""
    workers: Workers | None = None
    """Processes that read images; None: as many as the machine can spare."""
    part: str = ""
    """Which of several processes this is, such as 3/16: each takes its own images. Not needed under
    torchrun."""
    part_rows: Annotated[int, Range(1, 1_000_000)] | None = None
    """Images per file in the output folder; by default a thousandth of them, from 256 to 16,384."""
    engine: Literal["local", "ray"] = "local"
    """What does the work: this process, or the actors of a Ray cluster."""
    ray_address: str = ""
    """Address of a running Ray cluster; by default one is started on this machine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        match = PART.fullmatch(self.part) if self.part else None
        require(
            not self.part or (match is not None and int(match[1]) <= int(match[2])),
            f"part is {self.part}",
            "use K/N, such as 3/16, with K from 1 to N",
        )
        require(
            self.engine == "ray" or not self.ray_address,
            "ray_address was given without engine ray",
            "add --engine ray",
        )
        require(
            self.engine == "local" or not self.part,
            f"part {self.part} was given with engine ray",
            "leave it out: Ray divides the images among its actors",
        )
        require(
            bool(self.data) or not (self.split or self.reading != AS_RECOGNISED),
            "an option of --data was given without it",
            "name the images with --data",
        )

    def loader(self, value_range: tuple[float, float] | None = None) -> LoaderConfig:
        """How images are read, once and in order. `value_range` is that of the model's training."""
        return LoaderConfig(workers=self.workers, value_range=value_range)

    def own_part(self) -> Part:
        """Which process this is, counting the parts and, within one, the processes of torchrun."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        rank = int(os.environ.get("RANK", "0"))
        number, total = map(int, self.part.split("/")) if self.part else (1, 1)
        return Part((number - 1) * world + rank + 1, total * world)


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(BulkConfig):
    """What is written about each image."""

    out: str = ""
    """Folder to write, for any number of images; or one file: .npz, .csv or .safetensors."""
    format: Literal["parquet", "jsonl"] = "parquet"
    """Format of the files in the folder."""
    block: int | None = None
    """Block whose output is written, counted from 0; the last one by default."""
    numbers: Literal["float32", "float16"] = "float32"
    """Number type of the features in Parquet."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig(BulkConfig):
    """What is answered about each image."""

    out: str = ""
    """Folder for the answers to any number of images, instead of printing them; a segmenter also
    writes `labels/` (indexed PNG) and `overlays/` there."""
    format: Literal["", "table", "json", "csv", "parquet", "jsonl"] = ""
    """Printed: `table`, for people; `json`, one object per line; or `csv`, one line per class. In a
    folder: `parquet`, or `jsonl`, the default for a segmenter."""
    top: PositiveInt | None = None
    """Classes per image (default 5); for a multi-label model, this many labels, whether or not they
    reach their thresholds (default: those that do)."""
    flip: bool = False
    """Average the probabilities of each image and its mirror image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_folder = self.format in ("parquet", "jsonl")
        require(
            not self.format or in_folder == bool(self.out),
            f"format {self.format} was given {'with' if self.out else 'without'} out",
            "print a table, json or csv; or write parquet or jsonl to --out FOLDER",
        )
