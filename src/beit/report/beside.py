"""What a run makes of some pictures, picture by picture, to hold runs against each other."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from beit.config.runs import PretrainRunConfig, RunConfig, TokenizerRunConfig
from beit.report.markup import Markup, percent
from beit.report.pictures import judge, show, to_rgb, token_map
from beit.report.pretraining import make_guesses, predicts
from beit.report.tokenizer import make_paintings


class Answered(NamedTuple):
    """A picture, and what a run makes of it."""

    picture: Markup
    answer: Markup


def answers_of(run: Path, config: RunConfig) -> dict[str, Answered]:
    """By the name of the picture; of a model without tokens there are none.

    Errors: BeitError if the artifact or the pictures are not there.
    """
    if isinstance(config, TokenizerRunConfig):
        return _of_tokenizer(run, config)
    tokens = isinstance(config, PretrainRunConfig) and config.objective.target == "tokens"
    if isinstance(config, PretrainRunConfig) and tokens and predicts(config):
        return _of_pretraining(run, config)
    return {}


def _of_tokenizer(run: Path, config: TokenizerRunConfig) -> dict[str, Answered]:
    tokenizer, paintings = make_paintings(run, config)
    found = {}
    for one in paintings:
        if one.painted is None:
            mapped = token_map(one.tokens, tokenizer.grid, tokenizer.codes)
            answer = show(mapped, "The tokens, a colour per code", "tokens")
        else:
            answer = show(to_rgb(one.painted), "From its tokens", f"{one.psnr:.1f} dB")
        found[one.key] = Answered(show(to_rgb(one.image), "The picture", "picture"), answer)
    return found


def _of_pretraining(run: Path, config: PretrainRunConfig) -> dict[str, Answered]:
    _, tokenizer, guesses = make_guesses(run, config)
    assert tokenizer is not None
    found = {}
    for one in guesses:
        picture = to_rgb(one.image)
        words = f"{percent(one.score)} of {int(one.asked.sum())} tokens right"
        judged = judge(picture, one.asked, one.answer == one.target, tokenizer.grid)
        answer = show(judged, f"Right (teal) and wrong (orange): {words}", words)
        found[one.key] = Answered(show(picture, "The picture", "picture"), answer)
    return found
