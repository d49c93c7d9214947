"""The verb that answers over HTTP: serve."""

from __future__ import annotations

import tyro

from beit.cli.options import Paths, config_errors
from beit.config.serve import ServeConfig
from beit.errors import ResourceError


def serve(args: list[str]) -> None:
    """Answer over HTTP, with a page to drop images on."""

    def command(
        artifacts: Paths,
        limits: tyro.conf.OmitArgPrefixes[ServeConfig],
        device: str = "cpu",
    ) -> tuple[tuple[str, ...], ServeConfig, str]:
        """Serve one artifact, or several as NAME=ARTIFACT.

        Args:
            artifacts: A run, an artifact or a released file; several with names.
            limits: Address and limits.
            device: cpu or cuda.
        """
        return artifacts, limits, device

    with config_errors():
        artifacts, limits, device = tyro.cli(command, args=args, prog="beit serve")
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ResourceError(
            f"a library for serving is not installed: {error}",
            remedy='pip install "beit[serve]"',
        ) from error
    from beit.serve.server import serve as run

    run(artifacts, limits, device)
