"""Light heads on cached features: linear, MLP, nearest neighbours, their calibration, fusion and artifact."""
