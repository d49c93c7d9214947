"""The order is a pure function, whatever the division of the work."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beit.data.order import check_division, permutation, sample_generator, step_samples
from beit.errors import ConfigError, DataError
from beit.rng import derive_seed


@given(st.integers(1, 300), st.integers(0, 2**40), st.integers(0, 100))
def test_permutation_is_one(length: int, seed: int, epoch: int) -> None:
    order = permutation(length, seed, epoch)
    assert sorted(order.tolist()) == list(range(length))
    assert order.dtype == np.int64
    assert not order.flags.writeable


def test_epochs_and_seeds_differ() -> None:
    orders = [permutation(100, seed, epoch).tolist() for seed in (0, 1) for epoch in range(4)]
    for first, second in itertools.combinations(orders, 2):
        assert first != second


def test_order_is_the_same_for_ever() -> None:
    assert permutation(8, 0, 0).tolist() == [2, 7, 5, 1, 3, 6, 4, 0]
    assert derive_seed("a", 1) == 227468608753495199


@given(
    step=st.integers(0, 50),
    length=st.integers(1, 40),
    division=st.sampled_from([(1, 12), (1, 3), (2, 6), (2, 2), (3, 4), (4, 1), (12, 1)]),
)
def test_division_changes_nothing(step: int, length: int, division: tuple[int, int]) -> None:
    world, micro_batch = division
    whole = step_samples(step, length=length, seed=3, batch=12, micro_batch=12)
    parts = [
        step_samples(
            step, length=length, seed=3, batch=12, rank=rank, world=world, micro_batch=micro_batch
        )
        for rank in range(world)
    ]
    assert all(len(micro) == micro_batch for part in parts for micro in part)
    assert [place for part in parts for micro in part for place in micro] == whole[0]


@given(length=st.integers(1, 50), batch=st.integers(1, 20))
def test_every_epoch_holds_every_sample_once(length: int, batch: int) -> None:
    steps = -(-3 * length // batch)
    stream = [
        place
        for step in range(steps)
        for micro in step_samples(step, length=length, seed=0, batch=batch, micro_batch=batch)
        for place in micro
    ][: 3 * length]
    assert stream == [
        (epoch, int(index)) for epoch in range(3) for index in permutation(length, 0, epoch)
    ]


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
        step_samples(0, length=5, seed=0, batch=10, world=3, micro_batch=1)
    with pytest.raises(ConfigError, match=r"micro-batch of one of: 1, 2, 3, 6"):
        step_samples(0, length=5, seed=0, batch=12, world=2, micro_batch=4)
    with pytest.raises(ConfigError, match="must be positive"):
        step_samples(0, length=5, seed=0, batch=12, micro_batch=0)
    with pytest.raises(DataError, match="no images"):
        step_samples(0, length=0, seed=0, batch=12, micro_batch=12)


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
