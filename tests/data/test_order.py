"""The order is a pure function, whatever the division of the work."""

from __future__ import annotations

import collections
import itertools
import re
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beit.data.order import (
    FullOrder,
    Order,
    Permutation,
    ShardOrder,
    SortedOrder,
    check_division,
    sample_generator,
    step_samples,
)
from beit.errors import ConfigError, DataError
from beit.rng import derive_seed


def shard_order(length: int, seed: int, batch: int) -> ShardOrder:
    """Over shards of 0, 1, 2 and so on images."""
    counts = list(itertools.takewhile(lambda end: end < length, itertools.accumulate(range(99))))
    return ShardOrder(np.diff([0, *counts, length]), seed, batch)


ORDERS: list[Callable[[int, int, int], Order]] = [
    lambda length, seed, _: FullOrder(length, seed),
    lambda length, seed, _: SortedOrder(length, seed),
    shard_order,
]
orders = pytest.mark.parametrize("make", ORDERS, ids=["full", "sorted", "shards"])


def epoch_of(order: Order, epoch: int) -> list[int]:
    found: list[int] = order.indices(epoch, np.arange(order.length)).tolist()
    return found


@orders
@given(length=st.integers(1, 300), seed=st.integers(0, 2**40), epoch=st.integers(0, 100))
def test_an_epoch_is_a_permutation_and_any_position_is_computed_alone(
    make: Callable[[int, int, int], Order], length: int, seed: int, epoch: int
) -> None:
    order = make(length, seed, 12)
    whole = epoch_of(order, epoch)
    assert sorted(whole) == list(range(length))
    some = np.arange(length)[:: max(length // 7, 1)]
    assert make(length, seed, 12).indices(epoch, some).tolist() == [whole[at] for at in some]


@orders
def test_epochs_and_seeds_differ(make: Callable[[int, int, int], Order]) -> None:
    found = [epoch_of(make(100, seed, 4), epoch) for seed in (0, 1) for epoch in range(4)]
    for first, second in itertools.combinations(found, 2):
        assert first != second


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (ORDERS[0], [6, 3, 0, 2, 5, 7, 4, 1]),
        (ORDERS[1], [2, 7, 5, 1, 3, 6, 4, 0]),
        (ORDERS[2], [2, 7, 0, 1, 3, 4, 5, 6]),
    ],
)
def test_orders_are_the_same_for_ever(
    make: Callable[[int, int, int], Order], expected: list[int]
) -> None:
    assert epoch_of(make(8, 0, 4), 0) == expected
    assert derive_seed("a", 1) == 227468608753495199


def test_places_and_neighbours_of_a_permutation_are_even() -> None:
    """Each number comes equally often at each place and behind each other, over many keys."""
    length, keys = 40, 4000
    places, behind = np.zeros((2, length, length))
    for key in range(keys):
        found = Permutation(length, key)(np.arange(length))
        places[np.arange(length), found] += 1
        behind[found[:-1], found[1:]] += 1
    for counts, expected, cells in (
        (places, keys / length, (length - 1) ** 2),
        (behind[~np.eye(length, dtype=bool)], keys / length, length * (length - 1)),
    ):
        deviation = ((counts - expected) ** 2 / expected).sum() / cells
        assert abs(deviation - 1) < 0.15


def test_a_billion_samples_take_no_memory() -> None:
    permutation = Permutation(10**9, 1)
    tracemalloc.start()
    found = permutation(np.arange(10**9 - 1000, 10**9))
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
    assert len(np.unique(found)) == 1000
    assert 0 <= found.min() < found.max() < 10**9


def test_shards_are_left_for_good_and_shared_by_the_processes() -> None:
    """Of an epoch every shard is read within a short stretch, and by few of the processes."""
    shards, each, batch = 320, 12, 16
    order = ShardOrder(np.full(shards, each), 7, batch)
    assert (order.lanes, order.mixed) == (8, 4)
    steps = shards * each // batch
    readers: dict[int, set[int]] = collections.defaultdict(set)
    for rank in range(4):
        later = {
            index // each
            for step in range(7 * steps, 8 * steps)
            for _, index in step_samples(
                step, order=order, batch=batch, rank=rank, world=4, micro_batch=4
            )[0]
        }
        last: dict[int, int] = {}
        for step in range(steps):
            (places,) = step_samples(
                step, order=order, batch=batch, rank=rank, world=4, micro_batch=4
            )
            for _, index in places:
                first = last.setdefault(index // each, step)
                assert step - first <= 4 * each // (batch // 8)
                readers[index // each].add(rank)
        assert len(later - last.keys()) <= 4  # it finds the shards of its lanes again
    assert len(readers) == shards
    assert sum(map(len, readers.values())) <= shards + order.lanes


def test_shards_are_mixed() -> None:
    """Of shards with one class each, a batch has about as many classes as of a full shuffle."""
    shards, each, batch = 64, 100, 32
    order = ShardOrder(np.full(shards, each), 1, batch)
    assert (order.lanes, order.mixed) == (2, 16)
    found = np.array(epoch_of(order, 0)).reshape(-1, batch) // each
    classes = np.mean([len(np.unique(some)) for some in found])
    assert classes > 0.9 * 32 * (1 - (1 - 1 / 32) ** batch)  # as if drawn from 32 shards


@orders
@given(
    step=st.integers(0, 50),
    length=st.integers(1, 40),
    division=st.sampled_from([(1, 12), (1, 3), (2, 6), (2, 2), (3, 4), (4, 1), (12, 1)]),
)
def test_division_changes_nothing(
    make: Callable[[int, int, int], Order], step: int, length: int, division: tuple[int, int]
) -> None:
    world, micro_batch = division
    order = make(length, 3, 12)
    whole = step_samples(step, order=order, batch=12, micro_batch=12)
    parts = [
        step_samples(step, order=order, batch=12, rank=rank, world=world, micro_batch=micro_batch)
        for rank in range(world)
    ]
    assert all(len(micro) == micro_batch for part in parts for micro in part)
    assert [place for part in parts for micro in part for place in micro] == whole[0]


@orders
@given(length=st.integers(1, 50), batch=st.integers(1, 20))
def test_every_epoch_holds_every_sample_once(
    make: Callable[[int, int, int], Order], length: int, batch: int
) -> None:
    order, steps = make(length, 0, batch), -(-3 * length // batch)
    stream = [
        place
        for step in range(steps)
        for micro in step_samples(step, order=order, batch=batch, micro_batch=batch)
        for place in micro
    ][: 3 * length]
    assert stream == [(epoch, index) for epoch in range(3) for index in epoch_of(order, epoch)]


@pytest.mark.parametrize("world", range(1, 10))
@pytest.mark.parametrize("batch", [1, 6, 8, 12, 60])
def test_other_numbers_of_processes_are_refused_with_legal_ones(batch: int, world: int) -> None:
    """And what is named is accepted."""
    if batch % world == 0:
        check_division(batch, world, 1)
        return
    with pytest.raises(ConfigError, match=f"{batch} cannot be divided among {world} ") as caught:
        check_division(batch, world, 1)
    batches, worlds = caught.value.remedy.split("numbers of processes:")
    for legal in re.findall(r"\d+", batches):
        check_division(int(legal), world, 1)
    named = [int(legal) for legal in worlds.split(",")]
    assert named == [number for number in range(1, batch + 1) if batch % number == 0]


def test_indivisible_batches_name_legal_values() -> None:
    with pytest.raises(ConfigError, match=r"batch of 9 or 12.*1, 2, 5, 10"):
        step_samples(0, order=FullOrder(5, 0), batch=10, world=3, micro_batch=1)
    with pytest.raises(ConfigError, match=r"micro-batch of one of: 1, 2, 3, 6"):
        step_samples(0, order=FullOrder(5, 0), batch=12, world=2, micro_batch=4)
    with pytest.raises(ConfigError, match="must be positive"):
        step_samples(0, order=FullOrder(5, 0), batch=12, micro_batch=0)
    with pytest.raises(DataError, match="no images"):
        step_samples(0, order=FullOrder(0, 0), batch=12, micro_batch=12)


def test_sample_generators_are_independent() -> None:
    places = itertools.product((0, 1), (0, 1, 2), range(20))
    first = [sample_generator(*place).random() for place in places]
    assert len(set(first)) == len(first)
    assert sample_generator(1, 2, 3).random() == sample_generator(1, 2, 3).random()


@given(st.lists(st.one_of(st.integers(), st.text()), max_size=4))
def test_seeds_have_63_bits(parts: list[int | str]) -> None:
    assert 0 <= derive_seed(*parts) < 2**63


def test_seeds_tell_parts_apart() -> None:
    seeds = {derive_seed(*parts) for parts in ((1, 23), (12, 3), ("1", 23), (123,), ("123",))}
    assert len(seeds) == 5
