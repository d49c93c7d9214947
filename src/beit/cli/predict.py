"""The verbs that use a model: predict, embed, serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from beit.cli.options import Artifact, Paths
from beit.config.bulk import EmbedConfig, PredictConfig
from beit.config.serve import ServeConfig
from beit.errors import ConfigError, optional_library
from beit.terminal import print_lines

if TYPE_CHECKING:
    from beit.inference.bulk import Job, Written

PREDICT, EMBED, LIMITS = PredictConfig(), EmbedConfig(), ServeConfig()


def predict(artifact: Artifact, images: Paths = (), config: PredictConfig = PREDICT) -> None:
    """Predict the classes of images, or of their pixels.

    Answers are printed or, with `--out`, written to a folder of Parquet files; if it was
    interrupted, repeat the command to continue. A segmenter writes label maps and overlays. A
    multi-label model gives independent probabilities, and the labels that reach their thresholds.

    The exit code is 3 if an image cannot be read; all others are answered.

    Args:
        artifact: Folder of a fine-tuning or segmentation run, or its `model` folder.
        images: Image files or folders; or use `--data`.
        config: Which images, and what is answered about them.
    """
    from beit.inference import files
    from beit.inference.bulk import open_job

    if config.out:
        out = Path(config.out)
        if out.suffix in (".csv", ".json", ".jsonl") and not out.is_dir():
            raise ConfigError(
                f"out is '{out}', and answers are written to a folder",
                remedy="give a folder; or print them: --format json, or csv",
            )
        written = write(open_job(artifact, images, config))
        print_lines(*written.lines)
        if config.own_part().total == 1:  # else torchrun would end the processes still at work
            files.must_be_readable(written.unreadable)
        return
    form = cast(Literal["table", "json", "csv"], config.format or "table")
    files.must_be_readable(files.print_predictions(files.predict(artifact, images, config), form))


def embed(artifact: Artifact, images: Paths = (), config: EmbedConfig = EMBED) -> None:
    """Write the features of images, or their visual tokens, to Parquet files or to one file.

    There is one vector per image, the mean patch vector; a tokenizer gives its tokens in row-major
    order. If it was interrupted, repeat the command to continue in the same folder.

    Args:
        artifact: Folder of a run, or its `model` folder, or any released file.
        images: Image files or folders; or use `--data`.
        config: Which images, and what is written of them.
    """
    from beit.inference import files
    from beit.inference.bulk import open_job

    single = files.single_file(config)
    if single:
        print_lines(files.embed(artifact, images, config, single))
    else:
        print_lines(*write(open_job(artifact, images, config)).lines)


def write(job: Job) -> Written:
    """Write the folder of a job, with the engine that its config names."""
    if job.config.engine == "ray":
        from beit.ray import write_folder as write_by_ray

        return write_by_ray(job)
    from beit.inference.bulk import write_folder

    return write_folder(job)


def serve(artifacts: Paths, limits: ServeConfig = LIMITS, device: str = "auto") -> None:
    """Serve models over HTTP, with a page to drop images on.

    Name one artifact, or several as NAME=ARTIFACT.

    Args:
        artifacts: A run, an artifact or a released file; several with names.
        limits: Address and limits.
        device: cpu, cuda, mps, or auto: a GPU if there is one.
    """
    with optional_library("a library for serving is not installed", "serve"):
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    from beit.serve.server import serve as run

    run(artifacts, limits, device)
