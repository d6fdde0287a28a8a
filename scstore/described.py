"""How an object shows itself at a prompt and in a notebook."""

import html
from abc import ABC, abstractmethod
from collections.abc import Mapping

from scstore.errors import printable


class Described(ABC):
    """Shows a title and a few facts: one line of text, in notebooks a table."""

    @abstractmethod
    def described(self) -> tuple[str, Mapping[str, str]]:
        """Return the title, and facts by their names."""

    def __repr__(self) -> str:
        title, facts = self.described()
        return printable(f"<{title}: {'; '.join(f'{name} {fact}' for name, fact in facts.items())}>")

    def _repr_html_(self) -> str:
        title, facts = self.described()
        rows = (f"<tr><th>{html.escape(n)}</th><td>{html.escape(fact)}</td></tr>" for n, fact in facts.items())
        return f"<table><caption>{html.escape(printable(title))}</caption>{''.join(rows)}</table>"
