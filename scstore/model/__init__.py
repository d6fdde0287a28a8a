"""The frozen language model: loading, gene projection, forward pass, readout."""
