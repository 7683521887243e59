"""Checks of a meta-gradient, its cost, the worth of examples, and how far to trust one task."""

from metajax.diagnostics.accuracy_predictors import AccuracyPredictor as AccuracyPredictor
from metajax.diagnostics.accuracy_predictors import fit_predictor as fit_predictor
from metajax.diagnostics.accuracy_predictors import predict_accuracy as predict_accuracy
from metajax.diagnostics.accuracy_predictors import support_statistics as support_statistics
from metajax.diagnostics.attributions import Attribution as Attribution
from metajax.diagnostics.attributions import attribute as attribute
from metajax.diagnostics.calibration import Reliability as Reliability
from metajax.diagnostics.calibration import best_temperature as best_temperature
from metajax.diagnostics.calibration import brier_score as brier_score
from metajax.diagnostics.calibration import reliability as reliability
from metajax.diagnostics.costs import Cost as Cost
from metajax.diagnostics.costs import cost_table as cost_table
from metajax.diagnostics.costs import estimate_cost as estimate_cost
from metajax.diagnostics.cross_validation import HeldOut as HeldOut
from metajax.diagnostics.cross_validation import cross_predict as cross_predict
from metajax.diagnostics.gradient_checks import Check as Check
from metajax.diagnostics.gradient_checks import check_meta_gradient as check_meta_gradient
from metajax.diagnostics.gradient_noise import GradientNoise as GradientNoise
from metajax.diagnostics.gradient_noise import measure_noise as measure_noise
from metajax.diagnostics.removals import Removals as Removals
from metajax.diagnostics.removals import lds as lds
from metajax.diagnostics.single_tasks import Trust as Trust
from metajax.diagnostics.single_tasks import conformal_sets as conformal_sets
from metajax.diagnostics.single_tasks import trust as trust
from metajax.diagnostics.smoothness import metasmoothness as metasmoothness
