"""Whatever happens to an extraction, and in whatever order: it ends in the same store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_disk import Bench, BrokenDisk, Killed, as_if_another_process, in_place_of_the_disk, make_benches
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from warm import scratch_folder

import scstore
from scstore import fsio
from scstore.store.ledger import record_path
from scstore.store.verify_store import verify_store

PARTS = st.integers(1, 4).flatmap(lambda count: st.tuples(st.integers(0, count - 1), st.just(count)))

STEPS = st.one_of(
    st.tuples(st.just("extract"), PARTS),
    st.tuples(st.just("kill"), PARTS, st.integers(0, 40)),
    st.tuples(st.just("kill"), PARTS, st.integers(200, 340)),
    st.tuples(st.just("flip"), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 255)),
    st.tuples(st.just("flip and repair"), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 255)),
    st.tuples(st.just("collect garbage")),
)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with scratch_folder() as folder:
        yield make_benches(Path(folder) / "benches")["fresh"]


def flip(root: Path, which: int, place: int, mask: int) -> None:
    """Another byte in a chunk or record of a shard, where there is one."""
    files = sorted([*root.glob("obsm/*/c/*/0"), *record_path(root, 0).parent.glob("*.json")])
    if files:
        file = files[which % len(files)]
        data = bytearray(file.read_bytes())
        data[place % len(data)] ^= mask
        file.write_bytes(data)


def take(bench: Bench, step: tuple[Any, ...]) -> None:
    """One step."""
    root = bench.root
    if step[0] == "extract":
        bench.run(shard="{}/{}".format(*step[1]))
    elif step[0] == "kill":
        try:
            with in_place_of_the_disk(BrokenDisk(step[2], "kill")):
                bench.run(shard="{}/{}".format(*step[1]))
        except Killed:
            as_if_another_process(root.parent)
    elif not root.exists():
        pass
    elif step[0] == "collect garbage":
        verify_store(root, gc=True)
    else:
        flip(root, *step[1:])
        if step[0] == "flip and repair":
            verify_store(root, deep=True, repair=True)
            assert verify_store(root, deep=True).ok


def sound_rows(root: Path, whole: dict[str, np.ndarray]) -> None:
    """I1: a row that can be read is that of an uninterrupted run."""
    store = scstore.open(root)
    assert store.plan is not None
    for shard, start, stop in store.plan.shards():
        if store.committed[start]:
            for name in whole:
                try:
                    rows = store.view(name)[start:stop]
                except scstore.errors.DamagedError:
                    continue
                np.testing.assert_array_equal(rows, whole[name][start:stop], err_msg=f"{name} of shard {shard}")


@settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(STEPS, min_size=1, max_size=6))
def test_any_history_ends_in_the_same_store(bench: Bench, steps: list[tuple[Any, ...]]) -> None:
    """RELIABILITY 21, 23, 27, 30, I1–I3: parts extracted, processes killed, bytes flipped, damage marked."""
    bench.set_up()
    expected = scstore.open(bench.whole)
    whole = {name: expected.view(name)[:] for name in expected.views if name != "X"}
    for step in steps:
        take(bench, step)
        if bench.root.exists():
            sound_rows(bench.root, whole)
    bench.run()
    verify_store(bench.root, deep=True, gc=True)
    assert fsio.digest_tree(bench.root) == bench.digest
    assert list(bench.root.parent.iterdir()) == [bench.root]
