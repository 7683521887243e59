"""How derivatives pass through the inner solve: the values of `inner_loop(differentiate=...)`."""

from metajax.differentiate.implicit_gradient import implicit as implicit
from metajax.differentiate.mixed_derivatives import mixed_mode as mixed_mode
from metajax.differentiate.mixed_derivatives import mixed_products as mixed_products
from metajax.differentiate.mixed_derivatives import one_step as one_step
from metajax.differentiate.solvers import Solver as Solver
from metajax.differentiate.solvers import conjugate_gradient as conjugate_gradient
from metajax.differentiate.solvers import dense as dense
from metajax.differentiate.solvers import neumann as neumann
from metajax.differentiate.strategies import Descent as Descent
from metajax.differentiate.strategies import Inner as Inner
from metajax.differentiate.strategies import InnerLoss as InnerLoss
from metajax.differentiate.strategies import Strategy as Strategy
from metajax.differentiate.strategies import descend as descend
from metajax.differentiate.strategies import result as result
from metajax.differentiate.strategies import solve_late as solve_late
from metajax.differentiate.unrolled import first_order as first_order
from metajax.differentiate.unrolled import truncated as truncated
from metajax.differentiate.unrolled import unroll as unroll
