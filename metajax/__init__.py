"""Meta-learning across tasks and modalities in JAX."""

import importlib.metadata as _metadata

from metajax import _versions

_versions.check_jax_version()
_versions.avoid_jaxlib_fault()

# The rooms.
from metajax import algorithms as algorithms
from metajax import data as data
from metajax import diagnostics as diagnostics
from metajax import differentiate as differentiate
from metajax import inner as inner
from metajax import losses as losses
from metajax import modalities as modalities
from metajax import nets as nets
from metajax import outer as outer
from metajax import plots as plots
from metajax import training as training
from metajax import types as types

# What everything speaks of.
from metajax.types import Adaptation as Adaptation
from metajax.types import Batch as Batch
from metajax.types import Gaussian as Gaussian
from metajax.types import Learner as Learner
from metajax.types import Loss as Loss
from metajax.types import Modalities as Modalities
from metajax.types import Params as Params
from metajax.types import Series as Series
from metajax.types import Task as Task
from metajax.types import TaskLoss as TaskLoss

# How fast weights are rewritten.
from metajax.inner import FiLM as FiLM
from metajax.inner import Rule as Rule
from metajax.inner import amortize as amortize
from metajax.inner import chain as chain
from metajax.inner import film as film
from metajax.inner import identity as identity
from metajax.inner import inner_loop as inner_loop
from metajax.inner import leaf_rates as leaf_rates
from metajax.inner import learned as learned
from metajax.inner import learned_optimizer as learned_optimizer
from metajax.inner import learned_rates as learned_rates
from metajax.inner import linear_head as linear_head
from metajax.inner import minibatch as minibatch
from metajax.inner import modulate as modulate
from metajax.inner import modulated as modulated
from metajax.inner import prototypes as prototypes
from metajax.inner import ridge as ridge
from metajax.inner import shared_rate as shared_rate
from metajax.inner import take as take

# How derivatives pass through the inner solve.
from metajax.differentiate import conjugate_gradient as conjugate_gradient
from metajax.differentiate import dense as dense
from metajax.differentiate import first_order as first_order
from metajax.differentiate import implicit as implicit
from metajax.differentiate import mixed_mode as mixed_mode
from metajax.differentiate import neumann as neumann
from metajax.differentiate import one_step as one_step
from metajax.differentiate import truncated as truncated
from metajax.differentiate import unroll as unroll

# Learning across tasks, and evaluation.
from metajax.outer import Info as Info
from metajax.outer import OuterLoop as OuterLoop
from metajax.outer import State as State
from metajax.outer import Summary as Summary
from metajax.outer import bilevel as bilevel
from metajax.outer import evaluate as evaluate
from metajax.outer import evolution as evolution
from metajax.outer import forward as forward
from metajax.outer import outer_loop as outer_loop
from metajax.outer import persistent as persistent
from metajax.outer import predict as predict
from metajax.outer import query_loss as query_loss
from metajax.outer import online as online
from metajax.outer import reptile as reptile
from metajax.outer import summarize as summarize
from metajax.outer import supervised as supervised
from metajax.outer import switch_at as switch_at

# What was learned, in a file.
from metajax.training import load as load
from metajax.training import save as save

# Can this gradient be trusted, and what does it cost?
from metajax.diagnostics import check_meta_gradient as check_meta_gradient
from metajax.diagnostics import cost_table as cost_table
from metajax.diagnostics import estimate_cost as estimate_cost

__version__ = _metadata.version("metajax")
