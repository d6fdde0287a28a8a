"""The rows of an evaluation's table: which features each classifier reads, and what made them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scstore.errors import OptionError
from scstore.heads.across_genes import KIND
from scstore.store.reader import Store
from scstore.store.views import PICTURES

DEFAULT, REGRESSION = "default", "regression"
ACROSS_RANDOM = f"{KIND}_random"  # the across-genes head with random gene vectors
KINDS = MODEL, EMBEDDING, GENE_TEXTS, RANDOM, EXPRESSION = (
    "model", "embedding", "gene texts", "random vectors", "expression",
)  # fmt: skip
WORDS = {
    "genept": "GenePT-w",
    "genept_random": "random vectors",
    "genept_w": "GenePT-w as published",
    "genept_s": "GenePT-s",
    "X": "expression",
    DEFAULT: "the default head",
    REGRESSION: "a logistic regression on expression",
    KIND: "the across-genes head",
    ACROSS_RANDOM: "the across-genes head with random vectors",
}


class ViewSource(NamedTuple):
    view: str
    control: str


@dataclass(frozen=True)
class EvaluationRow:
    name: str  # as in the table and in views=
    views: tuple[str, ...]  # none for methods that choose their expression themselves: regression, across-genes
    # a model (readout), an embedding (of a file), gene texts (described genes, no readout), nothing, or a control
    uses: str
    control: str = ""  # name of the control's store
    optional: tuple[str, ...] = ()  # views that have to earn their place on held-out training cells, as in `fit`
    seen: bool = False  # its genes were chosen with labels of cells to be tested on: no part of the conclusion

    @property
    def marked(self) -> str:
        """The name; ``- `` before rows that use neither the model nor gene texts, `` *`` behind optimistic ones."""
        return f"{'- ' if self.uses in ('nothing', 'control') else ''}{self.name}{' *' if self.seen else ''}"

    @property
    def sources(self) -> tuple[ViewSource, ...]:
        """Where its views come from; expression is the cells' own, also for a control."""
        return tuple(ViewSource(view, "" if view == "X" else self.control) for view in self.views)

    def reads(self, uses: str) -> tuple[str, ...]:
        """Return its views of a model, or of whatever else it uses."""
        of_model = tuple(view for view in self.views if view.startswith("readout"))
        return of_model if uses == "model" else tuple(view for view in self.views if view != "X")

    @property
    def words(self) -> str:
        named = " + ".join(WORDS.get(view, view) for view in self.views)
        if not self.views or self.optional:
            named = WORDS[self.name.removeprefix(f"{self.control}: ")]
        return f"{named} of {self.control}" if self.control else named


def kind_of_view(store: Store, view: str) -> str:
    if view == "X":
        return EXPRESSION
    space = store.view(view).space
    if "source" in space:
        return EMBEDDING
    if space["view"] != "genept":
        return MODEL
    return RANDOM if space["vectors"] == "random" else GENE_TEXTS


def choose_rows(
    store: Store, *, views: Sequence[str] | None, controls: Mapping[str, Sequence[Store]]
) -> list[EvaluationRow]:
    """Return the rows that ``views`` names, else each view, the default and the regression; then the controls."""
    if views is None:
        wanted = _default_names(store)
        if "X" in store.views and REGRESSION not in store.views:
            wanted.append((REGRESSION,))
    else:
        wanted = [tuple(part.strip() for part in text.split("+")) for text in views]
    rows = [_row(store, names) for names in wanted]
    gated = any(row.optional for row in rows)
    for name, counterparts in controls.items():
        other = counterparts[0]
        together = tuple(view for view in other.default_views if view != "X" or "X" in store.views)
        alone = [other.default_view]
        if ((other.record or {}).get("control") or {}).get("kind") == "renamed":  # each readout has its own control
            alone += [row.name for row in rows if row.uses == MODEL and len(row.views) == 1 and row.name in other.views]
        rows += [EvaluationRow(f"{name}: {view}", (view,), "control", control=name) for view in dict.fromkeys(alone)]
        if optional := _optional(together) if gated else ():
            rows.append(EvaluationRow(f"{name}: {DEFAULT}", together, "control", control=name, optional=optional))
        elif together != (other.default_view,):
            rows.append(EvaluationRow(f"{name}: {'+'.join(together)}", together, "control", control=name))
    named = [row.name for row in rows]
    if repeated := [name for name in dict.fromkeys(named) if named.count(name) > 1]:
        raise OptionError(f"views='{repeated[0]}': this row is named twice. Name each row once.")
    return rows


def _default_names(store: Store) -> list[tuple[str, ...]]:
    """Return rows that use the model first, then those with gene texts, then those with neither."""
    kinds = {view: kind_of_view(store, view) for view in store.views}
    alone: list[tuple[str, ...]] = [(view,) for view in sorted(kinds, key=lambda view: KINDS.index(kinds[view]))]
    if store.record is None:
        return [names for names in alone if not PICTURES.search(names[0])] or alone
    by_kind = {kind: view for view, kind in kinds.items()}
    n_model = sum(kind in (MODEL, GENE_TEXTS) for kind in kinds.values())
    default = [(DEFAULT,)] if len(store.default_views) > 1 else []
    wanted = [*alone[:n_model], *default, *alone[n_model:]]
    if RANDOM in by_kind and EXPRESSION in by_kind:
        wanted.append((by_kind[RANDOM], by_kind[EXPRESSION]))
    return list(dict.fromkeys(wanted))


def _optional(views: Sequence[str]) -> tuple[str, ...]:
    """Return the default views that `fit` keeps only where they earn their place: all beside expression."""
    return tuple(view for view in views if view != "X") if "X" in views else ()


def _row(store: Store, names: Sequence[str]) -> EvaluationRow:
    if tuple(names) == (REGRESSION,) and REGRESSION not in store.views:
        store.view("X")  # refuses a store without expression
        return EvaluationRow(REGRESSION, (), "nothing")
    is_default = tuple(names) == (DEFAULT,) and store.record is not None
    resolved = store.default_views if is_default else tuple(store.view(name).name for name in names)
    if len(set(resolved)) < len(resolved):
        raise OptionError(f"views='{'+'.join(names)}': name each view of a row once.")
    kinds = {kind_of_view(store, view) for view in resolved}
    uses = next((kind for kind in (MODEL, EMBEDDING, GENE_TEXTS) if kind in kinds), "nothing")
    if is_default:
        return EvaluationRow(DEFAULT, resolved, uses, optional=_optional(resolved))
    return EvaluationRow("+".join(resolved), resolved, uses)
