"""CLI state; one command per process."""

from __future__ import annotations

from dataclasses import dataclass, field

from scstore.console import Output
from scstore.options import Parameter
from scstore.progress import Reporter


@dataclass
class State:
    """What the options before the command set, and the options of the command that runs."""

    output: Output = field(default_factory=Output)
    debug: bool = False
    parameters: tuple[Parameter, ...] = ()

    @property
    def reporter(self) -> Reporter:
        """Where notes, warnings and progress go."""
        from scstore.cli.builder import FlagReporter

        return FlagReporter(self.output.reporter)


state = State()
