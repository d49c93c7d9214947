"""What is done about classes of which there are few: weights in the loss, and images drawn again.

Both follow from the training images alone, and the order of an epoch from (seed, epoch) as ever:
what comes several times has several places in it.
"""

from __future__ import annotations

import numpy as np

from beit.config.data import ClassWeights
from beit.data.permutation import Permutation


def class_weights(counts: np.ndarray, how: ClassWeights) -> np.ndarray | None:
    """The weight of each class in the loss, float32 [C], for how often it occurs; None for `none`.

    Their mean over what they are counted of (images, labels, pixels) is 1, so that the loss of
    chance stays what it is. A class that never occurs has weight 0.
    """
    if how == "none":
        return None
    frequency = counts / counts.sum()
    power = {"balanced": 1.0, "root": 0.5}[how]
    weights = np.divide(1, frequency**power, out=np.zeros(len(counts)), where=counts > 0)
    return (weights / (frequency * weights).sum()).astype(np.float32)


def balanced_places(targets: np.ndarray, seed: int) -> np.ndarray:
    """The images of an epoch in which the classes are balanced, int64; some come several times.

    Of one class each, int64 [n], all classes come as often as the most frequent one. Of several,
    bool [n, C], where an image of a rare class is one of a frequent class too, an image comes
    round(sqrt(most / n)) times for the rarest of its classes, which has n images (repeat factor
    sampling; Gupta et al. 2019, arXiv:1908.03195, section 5.1, with the most frequent class as the
    threshold).
    """
    everyone = np.arange(len(targets))
    order = Permutation(len(targets), "order", seed, 0)(everyone)  # whose turn it is once more
    if targets.ndim == 2:
        counts = targets.sum(axis=0)
        factors = np.sqrt(counts.max(initial=1) / np.maximum(counts, 1))
        repeats = np.where(targets, factors, 1.0).max(axis=1, initial=1.0)
        return np.repeat(np.arange(len(targets)), np.rint(repeats).astype(np.int64))
    most = int(np.bincount(targets).max())
    members = (order[targets[order] == target] for target in np.unique(targets))
    return np.sort(np.concatenate([np.resize(one, most) for one in members]))
