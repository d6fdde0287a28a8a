from __future__ import annotations

from pathlib import Path

import pytest

from scstore.errors import DamagedError, InputError
from scstore.store.root_group import decoding


@pytest.mark.parametrize(
    "error", [KeyError("k"), RuntimeError("bad\nheap"), UnicodeDecodeError("utf-8", b"", 0, 1, "x")]
)
def test_what_a_library_raises_is_one_plain_error(error: Exception) -> None:
    with pytest.raises(DamagedError, match=r"^s\.zarr: obs ") as caught, decoding(Path("s.zarr"), "obs"):
        raise error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [InputError("mine"), PermissionError("no"), MemoryError()])
def test_what_is_no_damage_passes(error: Exception) -> None:
    with pytest.raises(type(error)), decoding(Path("s.zarr"), "obs"):
        raise error
