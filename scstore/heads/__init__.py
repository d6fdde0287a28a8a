"""Light classifiers on cached features: linear, perceptron, nearest neighbours, across genes; fused and calibrated."""

PRIOR_ADJUSTMENT = 1.0  # default logit adjustment: 0 keeps training frequencies, 1 assumes equal ones
