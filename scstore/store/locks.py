"""Who may write which shards of a store, when several processes extract into it at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scstore import fsio
from scstore.errors import LockedError, OptionError

__all__ = ["Part", "creation_lock", "part_lock"]


@dataclass(frozen=True)
class Part:
    """One of ``count`` equal parts of a store's shards, numbered from 0."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            msg = f"shard='{self.index}/{self.count}': parts are numbered from 0 to {self.count - 1}."
            raise OptionError(msg)

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read ``i/n``."""
        if (found := re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)) is None:
            msg = f"shard={text!r}: give i/n, such as 0/8 for the first of eight parts."
            raise OptionError(msg)
        return cls(int(found[1]), int(found[2]))

    def owns(self, shard: int) -> bool:
        """Return whether a shard belongs to this part."""
        return shard % self.count == self.index

    def overlaps(self, other: Part) -> bool:
        """Return whether two parts may own the same shard."""
        return self.count != other.count or self.index == other.index


def creation_lock(root: Path) -> Path:
    """Return the lock for shaping a store; it lies beside the store, which does not exist yet."""
    return root.with_name(f"{root.name}.creating.lock")


@contextmanager
def part_lock(root: Path, part: Part) -> Iterator[None]:
    """Hold a part of a store for writing; ``LockedError`` while another process holds one that shares its shards."""
    # taken before the others are looked at, so that of two processes that start at once one sees the other
    with fsio.lock(_path(root, part)):
        for other, file in _held(root):
            if other != part and part.overlaps(other) and not fsio.reclaim_if_dead(file):
                msg = (
                    f"{file}: another process extracts part {other.index} of {other.count} of {root}, which shares "
                    f"shards with part {part.index} of {part.count}. Wait for it, or give every process shard='i/n' "
                    "with the same n."
                )
                raise LockedError(msg)
        yield


def _path(root: Path, part: Part) -> Path:
    name = "lock" if part.count == 1 else f"{part.index}of{part.count}.lock"
    return root.with_name(f"{root.name}.{name}")


def _held(root: Path) -> Iterator[tuple[Part, Path]]:
    for file in sorted(root.parent.iterdir()):
        if not file.name.startswith(f"{root.name}."):
            continue
        name = file.name.removeprefix(f"{root.name}.")
        if name == "lock":
            yield Part(), file
        elif found := re.fullmatch(r"(\d{1,6})of(\d{1,6})\.lock", name):
            yield Part(int(found[1]), int(found[2])), file
