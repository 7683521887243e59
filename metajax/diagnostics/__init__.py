"""Checks of a meta-gradient, and what it costs under each strategy."""

from metajax.diagnostics.costs import Cost as Cost
from metajax.diagnostics.costs import cost_table as cost_table
from metajax.diagnostics.costs import estimate_cost as estimate_cost
from metajax.diagnostics.gradient_checks import Check as Check
from metajax.diagnostics.gradient_checks import check_meta_gradient as check_meta_gradient
