"""Checks of a meta-gradient, what it costs, and what examples and hyperparameters were worth."""

from metajax.diagnostics.attributions import Attribution as Attribution
from metajax.diagnostics.attributions import attribute as attribute
from metajax.diagnostics.costs import Cost as Cost
from metajax.diagnostics.costs import cost_table as cost_table
from metajax.diagnostics.costs import estimate_cost as estimate_cost
from metajax.diagnostics.gradient_checks import Check as Check
from metajax.diagnostics.gradient_checks import check_meta_gradient as check_meta_gradient
from metajax.diagnostics.gradient_noise import GradientNoise as GradientNoise
from metajax.diagnostics.gradient_noise import measure_noise as measure_noise
from metajax.diagnostics.removals import Removals as Removals
from metajax.diagnostics.removals import lds as lds
from metajax.diagnostics.smoothness import metasmoothness as metasmoothness
