"""The verb that finds out what is wrong: doctor."""

from __future__ import annotations

from typing import Annotated

import tyro


def doctor(args: list[str]) -> None:
    """Find out what went wrong: repeat the step at which a run's numbers broke."""
    tyro.extras.subcommand_cli_from_dict(
        {"replay": replay}, args=args, prog="beit doctor", description=doctor.__doc__
    )


def replay(file: Annotated[str, tyro.conf.Positional]) -> None:
    """Repeat a step whose loss or gradient was not finite, and name the first bad value.

    Args:
        file: The record that the error named: RUN/diverged/step-NUMBER.safetensors.
    """
    from beit.runs.replaying import replay_step

    done = replay_step(file)
    reached = f"from the checkpoint of step {done.restored}" if done.restored else "from the start"
    print(
        f"step {done.step}, reached {reached}: "
        + (f"first not finite is {done.where}" if done.where else "every value is finite")
    )
    if done.where != done.recorded:
        recorded = done.recorded or "nothing"
        print(f"the run had found {recorded}: hardware, versions or pictures are not the same")
