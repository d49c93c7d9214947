"""The token cache: encoded once, whole or missing, and never that of something else."""

from __future__ import annotations

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from beit.errors import CheckpointError, ResourceError
from beit.tokenizers.token_cache import IDENTITY, FeatureCache, TokenCache

IMAGES, PATCHES = 10, 6


def cache(root: Path, tokenizer: str = "a", **shape: Any) -> TokenCache:
    given = {"views": 2, "images": IMAGES, "patches": PATCHES, "codes": 500}
    return TokenCache(root, {"tokenizer": tokenizer}, **(given | shape))


def truth(view: int, image: int) -> list[int]:
    """The tokens of a view, the first and the last of the vocabulary among them."""
    return [0, 499, *((7 * view + 31 * image + place) % 500 for place in range(PATCHES - 2))]


class Asked(NamedTuple):
    tokens: Tensor
    encoded: list[list[int]]


def ask(of: TokenCache, *pairs: tuple[int, int]) -> Asked:
    """The tokens of the pairs, and which of them had to be encoded."""
    encoded = []

    def encode(missing: list[int]) -> Tensor:
        encoded.extend(list(pairs[number]) for number in missing)
        return torch.tensor([truth(*pairs[number]) for number in missing])

    return Asked(of.tokens(torch.tensor(pairs), encode), encoded)


def view_file(of: TokenCache, view: int) -> Path:
    return of.folder / f"view-{view:04d}.tokens"


def test_only_what_is_missing_is_encoded(tmp_path):
    first = ask(cache(tmp_path), (0, 3), (1, 3), (0, 0))
    assert first.encoded == [[0, 3], [1, 3], [0, 0]]
    again = ask(cache(tmp_path), (1, 9), (0, 3), (1, 0), (1, 3))
    assert again.encoded == [[1, 9], [1, 0]]
    assert again.tokens.tolist() == [truth(1, 9), truth(0, 3), truth(1, 0), truth(1, 3)]
    assert view_file(cache(tmp_path), 0).stat().st_size == IMAGES * PATCHES * 2


def test_large_vocabularies_take_four_bytes(tmp_path):
    large = cache(tmp_path, codes=70_000)
    row = [69_999, 0, 65_535, 65_536, 1, 2]
    for _ in range(2):
        tokens = large.tokens(torch.tensor([[0, 4]]), lambda missing: torch.tensor([row]))
        assert tokens.tolist() == [row]
    assert view_file(large, 0).stat().st_size == IMAGES * PATCHES * 4


@pytest.mark.parametrize("bytes_written", range(2 * PATCHES))
def test_a_row_that_was_not_written_to_its_end_is_missing(tmp_path, bytes_written):
    ask(cache(tmp_path), (0, 1), (0, 2))
    with view_file(cache(tmp_path), 0).open("r+b") as file:
        start = 2 * PATCHES * 2
        file.seek(start + bytes_written // 2 * 2)  # a token lies in one word
        file.write(bytes(start + 2 * PATCHES - file.tell()))
    again = ask(cache(tmp_path), (0, 1), (0, 2))
    assert again.encoded == [[0, 2]]
    assert again.tokens.tolist() == [truth(0, 1), truth(0, 2)]


def test_caches_of_other_things_are_apart(tmp_path, monkeypatch):
    ask(cache(tmp_path), (0, 0))
    assert ask(cache(tmp_path, "b"), (0, 0)).encoded == [[0, 0]]
    assert ask(cache(tmp_path, views=9), (0, 0)).encoded == []
    with monkeypatch.context() as newer:
        newer.setattr("beit.tokenizers.token_cache.FORMAT", 2)
        assert ask(cache(tmp_path), (0, 0)).encoded == [[0, 0]]
    assert ask(cache(tmp_path), (0, 0)).encoded == []


def test_damaged_and_foreign_files_are_refused(tmp_path):
    one = cache(tmp_path)
    ask(one, (0, 0))
    with pytest.raises(CheckpointError, match=r"has for image 0 token 499, and[\s\S]*remove"):
        ask(cache(tmp_path, codes=400), (0, 0))
    with pytest.raises(CheckpointError, match="has 120 bytes, and 11 images of 6 tokens"):
        ask(cache(tmp_path, images=11), (0, 0))
    os.truncate(view_file(one, 0), 100)
    with pytest.raises(CheckpointError, match="has 100 bytes, and 10 images of 6 tokens"):
        ask(one, (0, 0))
    other = cache(tmp_path, "b")
    shutil.move(one.folder, other.folder)
    with pytest.raises(CheckpointError, match=f"{IDENTITY} describes another cache"):
        ask(other, (1, 0))


def test_room_is_looked_for_before_anything_is_made(tmp_path, monkeypatch):
    one = cache(tmp_path / "deep" / "er")
    assert f"2 views of {IMAGES} images are kept in {one.folder}" in one.check_room()
    assert not (tmp_path / "deep").exists()
    usage = shutil.disk_usage(tmp_path)
    full = usage._replace(free=2 * IMAGES * PATCHES * 2 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(ResourceError, match=r"has 0\.00 GB left[\s\S]*--token-cache"):
        one.check_room()


def test_a_full_disk_is_told_and_leaves_nothing_half_done(tmp_path, monkeypatch):
    write = os.pwrite

    def half(file: int, data: bytes, place: int) -> int:
        if len(data) < 2 * PATCHES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data[:PATCHES], place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half)
        with pytest.raises(ResourceError, match=r"No space left[\s\S]*--resume"):
            ask(cache(tmp_path), (0, 5))
    assert ask(cache(tmp_path), (0, 5)).encoded == [[0, 5]]
    assert ask(cache(tmp_path), (0, 5)).encoded == []


def test_several_may_write_at_once(tmp_path):
    """Each opens the cache for itself, as processes do."""

    def fill(image: int) -> None:
        tokens = ask(cache(tmp_path), (0, image), (1, image)).tokens
        assert tokens.tolist() == [truth(0, image), truth(1, image)]

    with ThreadPoolExecutor(IMAGES) as pool:
        list(pool.map(fill, range(IMAGES)))
    whole = ask(cache(tmp_path), *((view, number) for view in (0, 1) for number in range(IMAGES)))
    assert whole.encoded == []
    assert whole.tokens.tolist() == [truth(view, n) for view in (0, 1) for n in range(IMAGES)]
    assert not list(tmp_path.glob("*/.writing-*"))


WIDTH = 5


def features(root: Path, **shape: Any) -> FeatureCache:
    given = {"views": 2, "images": IMAGES, "patches": PATCHES, "width": WIDTH}
    return FeatureCache(root, {"teacher": "a"}, **(given | shape))


def look(of: FeatureCache, pairs: list[tuple[int, int]], known: Tensor) -> tuple[Tensor, list[int]]:
    """What is kept of the pairs, and which had to be computed, to `known`."""
    computed = []

    def compute(missing: list[int]) -> Tensor:
        computed.extend(missing)
        return known[missing]

    return of.features(torch.tensor(pairs), compute), computed


def odd_values() -> Tensor:
    """Random features of two images; among them the odd ones of float32, whose bits count."""
    known = torch.randn(2, PATCHES, WIDTH)
    known[0, 0] = torch.tensor([0.0, -0.0, torch.inf, torch.nan, 1e-45])
    return known


def test_features_come_back_bit_for_bit(tmp_path):
    known, pairs = odd_values(), [(1, 4), (0, 4)]
    for expected in ([0, 1], []):
        found, computed = look(features(tmp_path), pairs, known)
        assert torch.equal(found.view(torch.int32), known.view(torch.int32))
        assert computed == expected
    found, computed = look(features(tmp_path), [(0, 4), (0, 5)], known)
    assert computed == [1]
    assert torch.equal(found, known[[1, 1]])


@pytest.mark.parametrize("words_written", [0, 1, PATCHES * WIDTH - 1, PATCHES * WIDTH])
def test_features_that_were_not_written_to_their_end_are_missing(tmp_path, words_written):
    cache, known = features(tmp_path), torch.randn(1, PATCHES, WIDTH)
    look(cache, [(0, 2)], known)
    row = 4 * (PATCHES * WIDTH + 1)
    with (cache.folder / "view-0000.features").open("r+b") as file:
        file.seek(2 * row + 4 * words_written)
        file.write(bytes(row - 4 * words_written))
    assert look(cache, [(0, 2)], known)[1] == [0]
    assert look(cache, [(0, 2)], known)[1] == []


def test_every_flipped_bit_of_features_is_noticed(tmp_path):
    cache, known = features(tmp_path), torch.randn(1, PATCHES, WIDTH)
    look(cache, [(0, 0)], known)
    path = cache.folder / "view-0000.features"
    sound = path.read_bytes()
    for bit in np.random.default_rng(0).integers(32 * (PATCHES * WIDTH + 1), size=50).tolist():
        damaged = bytearray(sound)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"for image 0 features of another check sum"):
            look(cache, [(0, 0)], known)
    with pytest.raises(CheckpointError, match="10 images of 6 x 4 features take 1000"):
        look(features(tmp_path, width=4), [(0, 0)], known)
