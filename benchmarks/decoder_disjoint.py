"""Rows of benchmarks/decoder.py for sides that have no gene in common: what the genes' names or texts say is left.

Each side is centred on its own mean. «Alone» is a regression on one matrix; «grouped» starts at its class means and
fits a Gaussian mixture to all test cells, in the matrix and in components of their expression, as
`scstore fit --head across-genes` does. It takes the test cells together, and none of their labels.
"""

from __future__ import annotations

import numpy as np
from decoder_rows import Known, Matrix, best, fused, settings
from decoder_stores import POOLINGS, Sides
from plain_rivals import Said
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from scstore.genes.table import load_gene_table
from scstore.heads.across_genes import ClassProfiles, expression_components, fit_mixture

SPELLING, TEXTS, RANDOM = "spelling of symbols", "gene texts", "random gene vectors"
WIDTH = 384
STRENGTHS = (0.01, 0.1)


def gene_vectors(pair: Sides) -> dict[str, np.ndarray]:
    """Vectors of the panel's genes that no decoder made: of letters, of texts if there is a gene table, of nothing.

    Letters: groups of one to four in the symbol, since kin genes have like names. Texts are centred, not whitened.
    """
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), lowercase=False)
    found = {SPELLING: letters.fit_transform(pair.panel).toarray()}
    found[RANDOM] = np.random.default_rng(0).normal(size=(len(pair.panel), WIDTH))
    if pair.gene_table().exists():
        genes = load_gene_table(pair.gene_table())
        vectors = dict(zip(genes.obs["symbol"], genes.vectors - genes.centre, strict=True))
        found[TEXTS] = np.array([vectors.get(name, np.zeros_like(genes.centre)) for name in pair.panel])
    return {name: normalize(vectors) for name, vectors in found.items()}


class DisjointRows:
    """What every row says of one pair's test cells; ``layers`` is every layer and pooling alone, by reading."""

    def __init__(self, pair: Sides, read: dict[str, dict[str, Matrix]]) -> None:
        self.pair, self.known = pair, Known(np.arange(len(pair.read)), pair.labels)
        tested = pair.cut.test[pair.tested][:, pair.columns(pair.parts[1].genes)]
        self.components = expression_components(csr_matrix(tested))(csr_matrix(tested))
        self.said: dict[str, Said] = {}
        self.layers: dict[str, Said] = {}
        classes, counts = np.unique(pair.labels, return_counts=True)
        self.said["commonest label"] = Said(classes, np.tile(counts / counts.sum(), (len(pair.tested), 1)))
        vectors = gene_vectors(pair)
        for name, rows in vectors.items():
            self._add(name, self._weighted(rows))
        for name, views in read.items():
            self._with(name, {view: matrix for view, matrix in views.items() if view.startswith("readout_")})
            for other in vectors:
                self.said[f"{other} + {name}"] = fused(self.said[f"{other}: grouped"], self.said[f"{name}: grouped"])

    def _with(self, name: str, views: dict[str, Matrix]) -> None:
        scaled = {view: matrix.apart(scaled=True) for view, matrix in views.items()}
        offered = settings(scaled, STRENGTHS, self.known)
        for view in views:
            self.layers[f"{name}: {view}"] = best(each for each in offered if each.view == view).said
        for pool in POOLINGS:
            chosen = best(each for each in offered if each.view.startswith(f"readout_{pool}_"))
            self.said[f"{name}: {pool}"] = chosen.said
        chosen = best(offered)
        self.said[f"{name}: alone"] = chosen.said
        self.said[f"{name}: grouped"] = self._grouped(views[chosen.view])

    def _weighted(self, vectors: np.ndarray) -> Matrix:
        """Means of gene vectors, weighted by expression."""
        pair, found = self.pair, []
        place = {name: row for row, name in enumerate(pair.panel)}
        for cells, part in zip((pair.cut.train[pair.read], pair.cut.test[pair.tested]), pair.parts, strict=True):
            rows = [place[name] for name in part.genes]
            found.append(normalize(cells[:, pair.columns(part.genes)] @ vectors[rows]))
        return Matrix(*found)

    def _add(self, name: str, matrix: Matrix) -> None:
        offered = {str(scaled): matrix.apart(scaled=scaled) for scaled in (False, True)}
        self.said[name] = best(settings(offered, STRENGTHS, self.known)).said
        self.said[f"{name}: grouped"] = self._grouped(matrix)

    def _grouped(self, matrix: Matrix) -> Said:
        classes, codes = np.unique(self.known.labels, return_inverse=True)
        one = matrix.apart(scaled=False)
        train, test = (normalize(rows).astype(np.float32) for rows in (one.train, one.test))
        profiles = ClassProfiles.fit([(train, codes)], n_classes=len(classes), width=train.shape[1])
        return Said(classes, np.exp(fit_mixture(profiles, test, self.components)(test, self.components)))
