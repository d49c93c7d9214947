"""Several processes that train together without `torchrun`: what it tells them is set here."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Result = TypeVar("Result")
LONGEST = 300.0
"""Seconds after which processes that do not end are given up."""


def together(function: Callable[..., Result], *given: Any, world: int = 2) -> list[Result]:
    """What the function returns in each process, told its rank and then what is given.

    Raises AssertionError with the stack of whoever raised.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["beit.runs"])  # torch is imported once, not in each process
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
