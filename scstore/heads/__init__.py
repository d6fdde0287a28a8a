"""Light classifiers on cached features: linear, perceptron, nearest neighbours, across genes; fused and calibrated."""

# Default logit adjustment: 0 keeps training frequencies, 1 assumes equal ones.
PRIOR_ADJUSTMENT = 1.0
