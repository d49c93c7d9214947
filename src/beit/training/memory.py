"""When memory runs out: how to tell, and which micro-batch to try next."""

from __future__ import annotations

import torch

from beit.errors import ResourceError


def ran_out_of_memory(error: BaseException) -> bool:
    """True for all the ways in which Python and torch say that there is no memory left."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def smaller_micro_batch(micro_batch: int, delivered: int) -> int:
    """The largest divisor of what the loader delivers that is at most half of a micro-batch.

    Raises ResourceError if a single image was already too much.
    """
    if micro_batch == 1:
        raise ResourceError(
            "memory ran out with a single image in the micro-batch",
            remedy="use a smaller model or --size, or a machine with more memory",
        )
    return max(size for size in range(1, micro_batch // 2 + 1) if delivered % size == 0)


def too_large(micro_batch: int, fits: int | None, step: int) -> ResourceError:
    """Memory ran out with the micro-batch that was asked for; another was found to fit, or not."""
    found = f"; {fits} fit" if fits else ""
    return ResourceError(
        f"memory ran out at step {step} with a micro-batch of {micro_batch}{found}",
        remedy=f"use --micro-batch {fits or max(micro_batch // 2, 1)} and start again with another "
        "--out: the batch of an update stays what it is, the rest is accumulated",
    )


def ran_out_elsewhere(step: int) -> ResourceError:
    """Memory ran out where a smaller micro-batch would not help."""
    return ResourceError(
        f"memory ran out after step {step}, outside the forward and backward pass",
        remedy="free memory: fewer --workers, --cache False, a smaller evaluation; then go on with "
        "--resume",
    )
