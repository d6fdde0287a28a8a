from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from warm import Warm, scratch_folder, warm


@pytest.fixture(scope="session")
def processes() -> Iterator[Warm]:
    """A process that has loaded everything, from which extractions are forked."""
    with scratch_folder() as folder, warm(Path(folder)) as started:
        yield started
