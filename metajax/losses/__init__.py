"""Losses of a network, (params, batch, key) -> (scalar, metrics): weighted means over the rows."""

from metajax.losses.calibration import calibrated_cross_entropy as calibrated_cross_entropy
from metajax.losses.classification import cross_entropy as cross_entropy
from metajax.losses.classification import one_hot_error as one_hot_error
from metajax.losses.classification import (
    semi_supervised_cross_entropy as semi_supervised_cross_entropy,
)
from metajax.losses.half_precision import computed_in as computed_in
from metajax.losses.learned import learned_loss as learned_loss
from metajax.losses.regression import gaussian_log_loss as gaussian_log_loss
from metajax.losses.regression import squared_error as squared_error
from metajax.losses.sequences import sequence_cross_entropy as sequence_cross_entropy
