"""`beit tokenizer`: a discrete VAE on one's own pictures."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from beit.artifact.store import Details
from beit.batch import ImageBatch
from beit.config import TokenizerRunConfig
from beit.data.sources import ImageSource, select
from beit.data.views import SingleView
from beit.evaluation.passes import CentreView, Passes
from beit.evaluation.tokenizer import tokenizer_health
from beit.objectives.reconstruct import Reconstruct
from beit.recipes import DEFAULT
from beit.runs.execution import Manner, Run, Task, carry_out, open_pictures, resolve
from beit.tokenizers.dvae import DiscreteVAE
from beit.training.parallel import Processes, start_processes
from beit.training.plan import Evaluation
from beit.training.seeding import seed_everything


def tokenizer(
    recipe: str | TokenizerRunConfig = DEFAULT,
    *,
    resume: bool = False,
    quiet: bool = False,
    report: bool = True,
    **options: object,
) -> Run:
    """Train a discrete VAE on the pictures of `data`; the run and its artifact go to `out`."""
    config = resolve("tokenizer", recipe, TokenizerRunConfig, options)
    processes = start_processes(config.training.device)
    return carry_out(config, prepare(config, processes), processes, Manner(resume, quiet, report))


def prepare(config: TokenizerRunConfig, processes: Processes) -> Task:
    """The tokenizer and all that its training needs."""
    built = config.tokenizer
    training, held_out = hold_out(open_pictures(config, built.channels), config.held_out)
    seed_everything(config.training.seed)
    passes = Passes(
        ImageBatch,
        held_out,
        CentreView(built.size, 1.0),
        size=built.size,
        channels=built.channels,
        loader=config.loader,
    )

    def measure(model: nn.Module) -> Mapping[str, float]:
        assert isinstance(model, DiscreteVAE)
        health = tokenizer_health(model, passes, device=processes.device)
        return {
            "psnr": health.psnr,
            "codes_in_use": float(health.codes_in_use),
            "perplexity": health.perplexity,
            "collapsed": float(health.collapsed),
        }

    return Task(
        objective=Reconstruct(built.build(), config.objective, seed=config.training.seed),
        source=training,
        view=SingleView(config=config.views, size=built.size, interpolation=built.interpolation),
        channels=built.channels,
        evaluation=Evaluation(measure, unreadable=passes.unreadable),
        details=Details(),
    )


def hold_out(source: ImageSource, share: float) -> tuple[ImageSource, ImageSource]:
    """Pictures to train on, and every n-th to measure on; with very few, all serve for both."""
    every = round(1 / share) if share else 0
    if not every or len(source) < 2 * every:
        return source, source
    indices = range(len(source))
    kept = [index for index in indices if index % every == every - 1]
    others = [index for index in indices if index % every != every - 1]
    return select(source, others), select(source, kept)
