"""The rows of an evaluation's table: which features each classifier reads, and what made them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scstore.errors import OptionError
from scstore.heads.across_genes import KIND
from scstore.store.reader import Store

__all__ = ["ACROSS_RANDOM", "CELLTYPIST", "EvaluationRow", "ViewSource", "choose_rows", "kind_of_view"]

CELLTYPIST = "celltypist"
ACROSS_RANDOM = f"{KIND}_random"
"""The across-genes head with gene vectors that mean nothing."""

READOUT, GENE_TEXTS, RANDOM, EXPRESSION, FOREIGN = "readout", "gene texts", "random vectors", "expression", "embedding"
MODEL_KINDS = (READOUT, FOREIGN)
WORDS = {
    "genept": "GenePT-w",
    "genept_random": "random vectors",
    "genept_w": "GenePT-w as published",
    "genept_s": "GenePT-s",
    "X": "expression",
    CELLTYPIST: "CellTypist",
    KIND: "the across-genes head",
    ACROSS_RANDOM: "the across-genes head with random vectors",
}


class ViewSource(NamedTuple):
    """A view of the cells' own stores, or of a control's (by its name)."""

    view: str
    control: str


@dataclass(frozen=True)
class EvaluationRow:
    """One classifier.

    Attributes
    ----------
    name
        As in the table and for ``--view``.
    views
        Views it reads; none for a method that reads expression of its own choice: CellTypist, the across-genes head.
    uses
        ``model`` (a readout, or another embedding), ``gene texts`` (vectors of described genes, no readout),
        ``nothing`` (neither), or ``control`` (a store given with ``--control``).
    control
        The name of that store, or ``""``.
    """

    name: str
    views: tuple[str, ...]
    uses: str
    control: str = ""

    @property
    def marked(self) -> str:
        """Name with ``- `` before the rows that use neither the model nor gene texts."""
        return f"- {self.name}" if self.uses in ("nothing", "control") else self.name

    @property
    def sources(self) -> tuple[ViewSource, ...]:
        """Where its views come from; the cells' expression is one and the same, whatever was made of it."""
        return tuple(ViewSource(view, "" if view == "X" else self.control) for view in self.views)

    @property
    def words(self) -> str:
        """What it reads, for a sentence."""
        if not self.views:
            return WORDS[self.name]
        told = " + ".join(WORDS.get(view, view) for view in self.views)
        return f"{told} of {self.control}" if self.control else told


def kind_of_view(store: Store, view: str) -> str:
    """What made a view: ``readout``, ``gene texts``, ``random vectors``, ``expression`` or a foreign ``embedding``."""
    if view == "X":
        return EXPRESSION
    space = store.view(view).space
    if "source" in space:
        return FOREIGN
    if space["view"] == "genept":
        return RANDOM if space["vectors"] == "random" else GENE_TEXTS
    return READOUT


def choose_rows(
    store: Store, *, views: Sequence[str] | None, controls: Mapping[str, Sequence[Store]]
) -> list[EvaluationRow]:
    """Every view alone, the default together, the controls; or what the user names.

    Parameters
    ----------
    store
        What is evaluated.
    views
        Names of views, joined with ``+`` to combine them; ``readout`` stands for the default view and ``celltypist``
        for CellTypist. All rows when ``None``.
    controls
        Other stores of the same cells by name; each adds its default view, and its default views together.

    Raises
    ------
    OptionError
        If a name is asked for twice.
    InputError
        If there is no such view.
    """
    if views is None:
        wanted = _default_names(store)
        if "X" in store.views and importlib.util.find_spec(CELLTYPIST) is not None:
            wanted.append((CELLTYPIST,))
    else:
        wanted = [tuple(part.strip() for part in text.split("+")) for text in views]
    rows = [_row(store, names) for names in wanted]
    for name, counterparts in controls.items():
        other = counterparts[0]
        together = tuple(view for view in other.default_views if view != "X" or "X" in store.views)
        rows += [
            EvaluationRow(f"{name}: {'+'.join(chosen)}", chosen, "control", control=name)
            for chosen in dict.fromkeys([(other.default_view,), together])
        ]
    named = [row.name for row in rows]
    if repeated := [name for name in dict.fromkeys(named) if named.count(name) > 1]:
        msg = f"--view {repeated[0]}: asked for twice. Name each row once."
        raise OptionError(msg)
    return rows


def _default_names(store: Store) -> list[tuple[str, ...]]:
    """Rows of what uses the model first, then gene texts, then neither."""
    alone: list[tuple[str, ...]] = [(view,) for view in store.views]
    order = (*MODEL_KINDS, GENE_TEXTS, RANDOM, EXPRESSION)
    alone.sort(key=lambda names: order.index(kind_of_view(store, names[0])))
    if store.record is None:
        return alone
    by_kind = {kind_of_view(store, view): view for view in store.views}
    n_model = sum(kind_of_view(store, view) in (*MODEL_KINDS, GENE_TEXTS) for view in store.views)
    wanted = [*alone[:n_model], store.default_views, *alone[n_model:]]
    if RANDOM in by_kind and EXPRESSION in by_kind:
        wanted.append((by_kind[RANDOM], by_kind[EXPRESSION]))
    return list(dict.fromkeys(wanted))


def _row(store: Store, names: Sequence[str]) -> EvaluationRow:
    if tuple(names) == (CELLTYPIST,):
        if importlib.util.find_spec(CELLTYPIST) is None:
            msg = "--view celltypist: CellTypist is not installed. Install it with: pip install celltypist"
            raise OptionError(msg)
        store.view("X")  # says so where there is no expression
        return EvaluationRow(CELLTYPIST, (), "nothing")
    resolved = tuple(store.view(name).name for name in names)
    if len(set(resolved)) < len(resolved):
        msg = f"--view {'+'.join(names)}: name each view of a row once."
        raise OptionError(msg)
    kinds = {kind_of_view(store, view) for view in resolved}
    without_model = "gene texts" if GENE_TEXTS in kinds else "nothing"
    uses = "model" if kinds & set(MODEL_KINDS) else without_model
    return EvaluationRow("+".join(resolved), resolved, uses)
