"""Some rows of a pre-training as one image file, for a README or a slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from beit.claim import claim_output
from beit.config.runs import PretrainRunConfig
from beit.data.visualize import hide, to_rgb, token_map
from beit.errors import ConfigError
from beit.objectives.reconstruction import decode_tokens
from beit.report.pretraining import make_guesses
from beit.training.run_folder import read_run_config


def write_strip(run: Path, place: Path, *, rows: int = 3, zoom: int = 3) -> Path:
    """Write typical rows of a pre-training as one PNG: image, input, target, prediction, tokens.

    Target and prediction are left out if the tokenizer paints no images.

    Errors: ConfigError if the run predicts no tokens.
    """
    with claim_output(place, replaces=True) as file, file.open("wb") as handle:
        _strip(run, rows, zoom).save(handle, "PNG", optimize=True)
    return place


def _strip(run: Path, rows: int, zoom: int) -> Image.Image:
    config = read_run_config(run)
    if not isinstance(config, PretrainRunConfig) or config.objective.target != "tokens":
        raise ConfigError(
            f"{run} is no pre-training with tokens", remedy="give the run of `beit pretrain`"
        )
    _, tokenizer, guesses = make_guesses(run, config)
    assert tokenizer is not None
    # Among the images guessed about as well as the middle one, those with the most to see.
    order = sorted(guesses, key=lambda one: one.score)
    middle = order[len(order) // 4 : -(len(order) // 4) or None]
    shown = sorted(middle, key=lambda one: -float(one.image.float().std()))[:rows]
    grid, size = tokenizer.grid, config.model.size
    lines = []
    for one in shown:
        image = to_rgb(one.image)
        filled = one.filled
        decodable = (one.target, filled) if tokenizer.can_decode else ()
        cells = [
            image,
            hide(image, one.hidden, grid),
            *(to_rgb(decode_tokens(tokens, tokenizer)) for tokens in decodable),
            token_map(filled, grid, tokenizer.codes),
        ]
        height, width = size[0] * zoom, size[1] * zoom
        scaled = [
            np.asarray(Image.fromarray(cell).resize((width, height), Image.Resampling.NEAREST))
            for cell in cells
        ]
        lines.append(np.concatenate([_framed(cell) for cell in scaled], axis=1))
    return Image.fromarray(np.concatenate(lines))


def _framed(image: np.ndarray, border: int = 6) -> np.ndarray:
    return np.pad(image, ((border, border), (border, border), (0, 0)), constant_values=255)
