"""Shards: equal parts of long work, and their merge."""

from __future__ import annotations

import argparse
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow.pulse.history import Shard
from tools._sharding import ShardsError, require_all


@given(st.integers(0, 200), st.integers(1, 12))
def test_each_thing_is_in_one_shard(things: int, count: int) -> None:
    """No thing is left out or done twice, and no shard has two things more than another."""
    taken = Counter(
        index
        for number in range(things)
        for index in range(1, count + 1)
        if Shard(index, count).takes(number)
    )
    assert taken.total() == things
    sizes = [taken[index] for index in range(1, count + 1)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["", "1", "0/4", "5/4", "1/0", "-1/2", "a/b", "1/2/3", "1.0/2"])
def test_a_file_that_is_not_a_shard_is_refused(text: str) -> None:
    """With what one looks like."""
    with pytest.raises(argparse.ArgumentTypeError, match="such as 2/4"):
        Shard.parse(text)


@given(st.integers(1, 12), st.randoms())
def test_all_shards_make_a_whole_in_any_order(count: int, random: object) -> None:
    """In any order of files; a missing, a second or a foreign one is an error."""
    shards = [Shard(index, count) for index in range(1, count + 1)]
    random.shuffle(shards)  # type: ignore[attr-defined]
    require_all(shards)
    with pytest.raises(ShardsError, match=f"given twice: {shards[0]}"):
        require_all([*shards, shards[0]])
    with pytest.raises(ShardsError, match="shards of 2 wholes"):
        require_all([*shards, Shard(1, count + 1)])
    if count > 1:
        with pytest.raises(ShardsError, match=f"missing: {shards[0]}"):
            require_all(shards[1:])
