"""What ``demo`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scstore.cli.builder import state
from scstore.demo import DemoResult


def show(result: DemoResult, _given: Mapping[str, Any]) -> None:
    """Print the table and what to try next."""
    state.output.table(*result.table())
    state.output.result(result.as_json(), *result.lines())
