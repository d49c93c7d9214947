"""Several processes that train together without `torchrun`: what it tells them is set here."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import beit
from beit.config import AugmentConfig, LinearHeadConfig

Result = TypeVar("Result")
LONGEST = 300.0
"""Seconds after which processes that do not end are given up."""

OPTIONS: dict[str, Any] = {
    "steps": 3, "warmup_steps": 1, "batch": 8, "epsilon": 1e-4, "log_every": 1, "workers": 0,
    "average": 0.5, "clip": 1.0, "device": "cpu", "precision": "fp32", "quiet": True,
    "report": False, "process_timeout": 120.0,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "finetune": {
        "drop_path": 0.5, "evaluate_every": 2,
        "augment": AugmentConfig(crop_scale=(0.5, 1.0), erasing=0.5),
    },
    "tokenizer": {"revive_every": 2},
    "pretrain": {"target": "pixels", "drop_path": 0.5, "knn_images": 0},
    "segment": {"head": LinearHeadConfig(), "drop_path": 0.5, "evaluate_every": 2},
}  # fmt: skip
"""Each with all that is random in it: drop path, erasing, mixup and cutmix; Gumbel noise."""


def train(rank: int, kind: str, data: Path, out: Path, options: dict[str, Any]) -> dict[str, float]:
    given = OPTIONS | KINDS[kind] | options
    run = getattr(beit, kind)("tiny", data=str(data), out=str(out), **given)
    metrics: dict[str, float] = run.metrics
    return metrics


def together(function: Callable[..., Result], *given: Any, world: int = 2) -> list[Result]:
    """What the function returns in each process, told its rank and then what is given.

    Raises AssertionError with the stack of whoever raised.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["beit.tasks"])  # torch is imported once, not in each process
    port = _free_port()
    lines, processes = [], []
    for rank in range(world):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(theirs, port, rank, world, function, given))
        process.start()
        theirs.close()
        lines.append(ours)
        processes.append(process)
    try:
        results = [_received(line) for line in lines]
    finally:
        for process in processes:
            process.kill()
            process.join()
    problems = [problem for _, problem in results if problem]
    assert not problems, "\n".join(problems)
    return [result for result, _ in results]


def _received(line: Connection) -> tuple[Any, str]:
    if not line.poll(LONGEST):
        return None, "a process does not end"
    try:
        received: tuple[Any, str] = line.recv()
    except EOFError:
        return None, "a process ended without a word"
    return received


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _run(
    line: Connection,
    port: int,
    rank: int,
    world: int,
    function: Callable[..., Result],
    given: tuple[Any, ...],
) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    try:
        line.send((function(rank, *given), ""))
    except BaseException:
        line.send((None, f"rank {rank}: {traceback.format_exc()}"))
