"""Light classifiers on cached features: linear, perceptron, nearest neighbours, across genes; fused and calibrated."""

PRIOR_ADJUSTMENT = 0.5
"""Default logit adjustment: 0 keeps training frequencies, 1 assumes equal ones."""
