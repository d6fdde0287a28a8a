"""Zarr's files written as all others of scstore's are."""

from __future__ import annotations

import asyncio

from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from scstore import fsio

__all__ = ["DiskStore"]


class DiskStore(LocalStore):
    """A Zarr store in a folder that nobody sees yet.

    Its files are written through :data:`scstore.fsio.disk`, straight to their names: the folder is flushed and renamed
    as a whole once it is complete.
    """

    async def set(self, key: str, value: Buffer) -> None:
        """Write a file."""
        await asyncio.to_thread(self.set_sync, key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a file that is not there."""
        if not await self.exists(key):
            await self.set(key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write a file."""
        path = self.root / key
        if not path.parent.exists():
            fsio.disk.make_folder(path.parent)
        with path.open("wb") as file:
            fsio.disk.write(file, memoryview(value.as_buffer_like()))
