"""The verb that answers over HTTP: serve."""

from __future__ import annotations

from beit.cli.options import Paths
from beit.config.serve import ServeConfig
from beit.errors import ResourceError

LIMITS = ServeConfig()


def serve(artifacts: Paths, limits: ServeConfig = LIMITS, device: str = "auto") -> None:
    """Answer over HTTP, with a page to drop images on.

    Serves one artifact, or several as NAME=ARTIFACT.

    Args:
        artifacts: A run, an artifact or a released file; several with names.
        limits: Address and limits.
        device: cpu, cuda, mps, or auto: a GPU where there is one.
    """
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ResourceError(
            f"a library for serving is not installed: {error}",
            remedy='pip install "beit[serve]"',
        ) from error
    from beit.serve.server import serve as run

    run(artifacts, limits, device)
