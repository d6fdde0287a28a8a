"""The loop a user would write over transformers: what scstore's own path is measured against.

Batches of 16 cells in file order, padded to the longest, with an attention mask; all hidden states are returned and
pooled afterwards, cell by cell; the key/value cache is left at its default, which is on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from scstore.tokens.sequences import RankedCells

BATCH = 16


@torch.no_grad()
def hidden_states_by_hand(
    model: Any,
    gene_vectors: torch.Tensor,
    before: torch.Tensor,
    after: torch.Tensor,
    ranked: RankedCells,
    *,
    layers: Sequence[int],
    readout_at_end: bool,
    batch: int = BATCH,
) -> torch.Tensor:
    """Run ranked cells; the weighted mean over the genes and the readout token of some layers.

    Parameters
    ----------
    model
        An ``AutoModelForCausalLM``, or an ``AutoModel`` for an encoder.
    gene_vectors
        ``(n_genes, width)``.
    before, after
        ``(n, width)``: embeddings of the tokens around the genes.
    ranked
        The genes of every cell.
    layers
        As transformers counts hidden states.
    readout_at_end
        Whether the readout token is the last position or the first.

    Returns
    -------
    ``(n_layers, 2, n_cells, width) float32`` on the host
    """
    device = gene_vectors.device
    results = []
    for start in range(0, len(ranked), batch):
        cells = range(start, min(start + batch, len(ranked)))
        spans = [slice(int(ranked.offsets[i]), int(ranked.offsets[i + 1])) for i in cells]
        sequences = [
            torch.cat([before, gene_vectors[torch.from_numpy(ranked.genes[span]).to(device)], after]) for span in spans
        ]
        inputs = pad_sequence(sequences, batch_first=True)
        mask = pad_sequence(
            [torch.ones(len(sequence), dtype=torch.long, device=device) for sequence in sequences], batch_first=True
        )
        states = model(inputs_embeds=inputs, attention_mask=mask, output_hidden_states=True).hidden_states
        for i, span in enumerate(spans):
            weights = torch.from_numpy(ranked.values[span]).to(device)
            first, stop = len(before), len(before) + len(weights)
            at = len(sequences[i]) - 1 if readout_at_end else 0
            rows = []
            for layer in layers:
                hidden = states[layer][i].float()
                mean = (weights[:, None] * hidden[first:stop]).sum(dim=0) / weights.sum()
                rows.append(torch.stack([mean, hidden[at]]))
            results.append(torch.stack(rows).cpu())
    return torch.stack(results, dim=2)
