"""Plots: each function draws into the matplotlib axes that it is given, and returns nothing."""

from metajax.plots.contact_sheets import contact_sheet as contact_sheet
from metajax.plots.images import RIGHT as RIGHT
from metajax.plots.images import WRONG as WRONG
from metajax.plots.measurements import STYLE as STYLE
from metajax.plots.measurements import accuracies as accuracies
from metajax.plots.measurements import curves as curves
from metajax.plots.measurements import dot_plot as dot_plot
from metajax.plots.measurements import reliability_diagram as reliability_diagram
from metajax.plots.tasks import task as task
