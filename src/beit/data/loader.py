"""The endless loader of training and the single pass of evaluation."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

import numpy as np
import torch

from beit.batch import Batch, Unreadable, collate
from beit.config.data import LoaderConfig
from beit.config.training import Order as OrderName
from beit.data.images import Images
from beit.data.order import (
    FullOrder,
    Order,
    ShardOrder,
    SortedOrder,
    check_division,
    sample_generator,
    step_samples,
)
from beit.data.read_ahead import WholeShards, fetched_ahead, whole_shards
from beit.data.sources import ImageSource, Target, shards_of
from beit.data.transforms import CachedViews
from beit.data.workers import Places, Read, read_batches
from beit.errors import ConfigError, DataError, UnreadableError
from beit.hardware import cores
from beit.terminal import counted, quoted

View = Callable[[np.ndarray, Target | None, random.Random], Batch] | CachedViews
"""Makes a batch of one image of pixels uint8 [H,W,C], a target and the sample's own generator; or
views that recur, which derive their generators themselves."""

MOST_WORKERS = 16
MOST_WORKERS_WITHOUT_ACCELERATOR = 2


def choose_workers(config: LoaderConfig, world: int) -> int:
    """The number of worker processes that read images for one rank.

    It is `config.workers` if given. Otherwise it is one less than the CPU cores of the rank, at
    most 16; at most 2 if training itself runs on the CPU; 0 if the rank has a single core. Cached
    images follow the same rule: making a view costs more than sending it between processes. The
    ranks that share this machine are as many as torchrun states (LOCAL_WORLD_SIZE), else all.
    """
    if config.workers is not None:
        return config.workers
    local = _ranks_here(world)
    most = MOST_WORKERS if torch.cuda.is_available() else MOST_WORKERS_WITHOUT_ACCELERATOR
    return min(max(cores() // local - 1, 0), most)


def _ranks_here(world: int) -> int:
    """How many of the ranks are on this machine, as torchrun states; else all."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world))


@dataclass(frozen=True)
class _Reader:
    """Reads micro-batches by (epoch, index), which with the seed determine all random choices."""

    images: Images
    view: View
    seed: int

    def read(self, places: Places) -> Read:
        return collate([self._sample(epoch, index) for epoch, index in places])

    def _sample(self, epoch: int, index: int) -> Batch | Unreadable:
        key = self.images.source.key(index)
        try:
            image = self.images.read(index)
        except UnreadableError as error:
            return Unreadable(key, error.reason)
        if isinstance(self.view, CachedViews):
            sample: Batch = self.view.of(image.pixels, self.seed, epoch, index)
        else:
            generator = sample_generator(self.seed, epoch, index)
            sample = self.view(image.pixels, image.target, generator)
        return sample._replace(keys=(key,), multi_frame=(key,) if image.multi_frame else ())

    def names(self, places: Places) -> list[str]:
        return [self.images.source.key(index) for _, index in places]


def _none_readable(unreadable: Iterable[Unreadable]) -> DataError:
    named = [f"{key} ({reason})" for key, reason in unreadable]
    return DataError(
        f"none of the {counted(len(named), 'image')} of a batch can be read: {quoted(named)}",
        remedy="repair or remove these files, or use a larger micro-batch",
    )


def _check_filled(source: ImageSource) -> None:
    if len(source) == 0:
        raise DataError("there are no images to read", remedy="name a folder with images")


def resolve_order(name: OrderName, source: ImageSource) -> OrderName:
    """The order that `auto` stands for. Raises ConfigError for `shards` if the data have none."""
    shards = shards_of(source)
    if name == "auto":
        return "shards" if shards is not None and shards.remote else "full"
    if name == "shards" and shards is None:
        raise ConfigError(
            f"order is shards, and {source.account.data} is read from no shards",
            remedy="use --order full, or pack the images with `beit data pack`",
        )
    return name


def _order(name: OrderName, source: ImageSource, seed: int, batch: int) -> Order:
    resolved, shards = resolve_order(name, source), shards_of(source)
    if resolved == "shards":
        assert shards is not None
        return ShardOrder(shards.counts, seed, batch)
    return (SortedOrder if resolved == "sorted" else FullOrder)(len(source), seed)


class Loader:
    """One process's part of an endless, resumable stream of micro-batches.

    What is read in a step follows from (seed, step) alone, see `order.step_samples`. Unreadable
    images are skipped in their micro-batch and listed in it, never replaced.

    Args:
        source: The images.
        view: Makes the sample of each image.
        channels: Channels that images are decoded to.
        batch: Images per step, of all ranks together.
        micro_batch: Images that one rank processes at once.
        seed: Decides the order of the images and every random choice of their views.
        order: In which order images come; `auto` is `shards` if these are remote, else `full`.
        rank: Which of the processes this is, from 0.
        world: How many processes train together.
        config: How images are read and cached.
        pin_memory: Whether batches lie in page-locked memory, from which a GPU copies faster.

    Raises:
        ConfigError: If the batch cannot be divided into micro-batches, or the order does not fit.
        DataError: If the source is empty.
    """

    def __init__(
        self,
        source: ImageSource,
        view: View,
        *,
        channels: int,
        batch: int,
        micro_batch: int,
        seed: int,
        order: OrderName = "auto",
        rank: int = 0,
        world: int = 1,
        config: LoaderConfig,
        pin_memory: bool = False,
    ) -> None:
        check_division(batch, world, micro_batch)
        _check_filled(source)
        self._order = _order(order, source, seed, batch)
        self.images = Images(source, channels, config.cache, config.value_range)
        self._whole = None if self.images.cached else self._fetch_whole(source, config, world)
        if self._whole is not None:
            self.images.source = self._whole.source
        self.workers = choose_workers(config, world)
        self._reader = _Reader(self.images, view, seed)
        self._samples = partial(
            step_samples,
            order=self._order,
            batch=batch,
            rank=rank,
            world=world,
            micro_batch=micro_batch,
        )
        self._batch, self._config, self._pin_memory = batch, config, pin_memory
        self.micro_batches = batch // world // micro_batch
        """Micro-batches per step of this process: its gradient accumulation."""
        self.restarts = 0
        """How often lost worker processes were replaced."""

    def _fetch_whole(
        self, source: ImageSource, config: LoaderConfig, world: int
    ) -> WholeShards | None:
        """The source with whole shards fetched, if there are remote ones; in the full order only if
        all of them fit in the cache."""
        if not isinstance(self._order, ShardOrder):
            return whole_shards(source, config, None, needed=False)
        lanes = -(-self._order.lanes * _ranks_here(world) // world)
        return whole_shards(source, config, lanes * self._order.mixed, needed=True)

    def _restarted(self) -> None:
        self.restarts += 1

    def batches(self, first_step: int, last_step: int) -> Generator[Batch, None, None]:
        """The micro-batches of the steps first_step <= step < last_step, counted from 0, in order.

        Each step gives `micro_batches` of them. The worker processes live as long as the iterator;
        if one is lost, new ones go on with what was not delivered, up to `worker_restarts` times.
        After an error the iterator is finished: go on with a new one from the step that was not
        completed.

        Raises:
            DataError: If no image of a micro-batch can be read.
            ResourceError: If workers die, or deliver nothing for `worker_timeout` seconds, more
                often than `worker_restarts` times.
        """

        def plan(delivered: int) -> Iterator[Places]:
            steps, more = divmod(delivered, self.micro_batches)
            left = map(self._samples, range(first_step + steps, last_step))
            return islice(chain.from_iterable(left), more, None)

        epoch = self._order.length * self.micro_batches // self._batch + 1
        with fetched_ahead(self._whole, plan(0), epoch) as used:
            for delivered, found in enumerate(
                read_batches(
                    self._reader,
                    plan,
                    self.workers,
                    self._config,
                    pin_memory=self._pin_memory,
                    on_restart=self._restarted,
                )
            ):
                if isinstance(found, list):
                    raise _none_readable(found)
                yield found
                used(delivered + 1)


def read_in_order(
    source: ImageSource,
    view: View,
    plan: Callable[[], Iterable[Sequence[int]]],
    *,
    batches: int,
    channels: int,
    world: int = 1,
    config: LoaderConfig,
    pin_memory: bool = False,
) -> Iterator[Read]:
    """The images of each group of indices in a plan, each group as one batch, in order.

    Nothing is repeated, padded or cached. A batch of which no image can be read is the list of its
    unreadable images.

    Args:
        source: The images.
        view: Makes the sample of each image.
        plan: Gives the groups of indices; called again, with the same result, to go on after a
            worker was lost.
        batches: How many groups to expect at least; with few, workers are not worth starting.
        channels: Channels that images are decoded to.
        world: How many processes read at the same time, among which the CPU cores are divided.
        config: How images are read.
        pin_memory: Whether batches lie in page-locked memory, from which a GPU copies faster.

    Raises:
        DataError: If the source is empty.
        ResourceError: As `Loader.batches`.
    """
    _check_filled(source)
    whole = whole_shards(source, config, 2, needed=False)
    images = Images(whole.source if whole else source, channels, value_range=config.value_range)
    reader = _Reader(images, view, seed=0)

    def remaining(delivered: int) -> Iterator[Places]:
        for group in islice(plan(), delivered, None):
            yield [(0, index) for index in group]

    workers = min(choose_workers(config, world), batches // 2)
    with fetched_ahead(whole, remaining(0), batches) as used:
        found = read_batches(reader, remaining, workers, config, pin_memory=pin_memory)
        for delivered, batch in enumerate(found):
            used(delivered)
            yield batch


def evaluate_batches(
    source: ImageSource,
    view: View,
    *,
    channels: int,
    batch: int,
    rank: int = 0,
    world: int = 1,
    config: LoaderConfig,
) -> Iterator[Batch]:
    """One ordered pass over exactly this rank's contiguous part, `batch` images at a time.

    The batches of all ranks together are those of a single process, so that numbers are the same to
    the last bit; the last batch may be smaller, and a part may be empty.
    The images of a batch of which none can be read are listed in a neighbouring batch.

    Args:
        source: The images.
        view: Makes the sample of each image.
        channels: Channels that images are decoded to.
        batch: Images per batch.
        rank: Which of the processes this is, from 0.
        world: How many processes evaluate together.
        config: How images are read.

    Raises:
        DataError: If the source is empty, or no image of the part can be read.
        ResourceError: As `Loader.batches`.
    """
    batches = math.ceil(len(source) / batch)
    own = range(batches * rank // world, batches * (rank + 1) // world)
    held: Batch | None = None
    lost: tuple[Unreadable, ...] = ()
    for found in read_in_order(
        source,
        view,
        lambda: (range(at * batch, min((at + 1) * batch, len(source))) for at in own),
        batches=len(own),
        channels=channels,
        world=world,
        config=config,
    ):
        if isinstance(found, list):
            lost += tuple(found)
            continue
        if held is not None:
            yield held
        held = found._replace(unreadable=lost + found.unreadable)
        lost = ()
    if held is not None:
        yield held._replace(unreadable=held.unreadable + lost)
    elif lost:
        raise _none_readable(lost)
