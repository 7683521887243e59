"""Meta-learning across tasks and modalities in JAX."""

# Floor 0: what everything speaks of.
from metajax._types import Batch as Batch
from metajax._types import Loss as Loss
from metajax._types import Modalities as Modalities
from metajax._types import Params as Params
from metajax._types import Series as Series
from metajax._types import Task as Task
from metajax._types import TaskLoss as TaskLoss
from metajax._tree import minibatch as minibatch
from metajax._tree import take as take

# Floor 1: adaptations, and how to differentiate them.
from metajax._adaptation import Adaptation as Adaptation
from metajax._adaptation import chain as chain
from metajax._adaptation import identity as identity
from metajax._differentiate import Strategy as Strategy
from metajax._differentiate import first_order as first_order
from metajax._differentiate import truncated as truncated
from metajax._differentiate import unroll as unroll
from metajax._implicit import conjugate_gradient as conjugate_gradient
from metajax._implicit import dense as dense
from metajax._implicit import implicit as implicit
from metajax._implicit import neumann as neumann
from metajax._mixed_mode import mixed_mode as mixed_mode
from metajax._mixed_mode import one_step as one_step

# Floor 1: estimates of the outer gradient.
from metajax._estimators import evolution as evolution
from metajax._estimators import forward as forward

# Floor 2: ways to write fast weights.
from metajax._amortize import FiLM as FiLM
from metajax._amortize import amortize as amortize
from metajax._amortize import film as film
from metajax._amortize import modulate as modulate
from metajax._amortize import modulated as modulated
from metajax._closed_form import linear_head as linear_head
from metajax._closed_form import prototypes as prototypes
from metajax._closed_form import ridge as ridge
from metajax._inner_loop import inner_loop as inner_loop
from metajax._learned_optimizer import learned_optimizer as learned_optimizer
from metajax._rules import Rule as Rule
from metajax._rules import leaf_rates as leaf_rates
from metajax._rules import learned_rates as learned_rates
from metajax._rules import shared_rate as shared_rate

# Floor 3: learning and judging across tasks.
from metajax._bilevel import bilevel as bilevel
from metajax._cost import Cost as Cost
from metajax._cost import cost_table as cost_table
from metajax._cost import estimate_cost as estimate_cost
from metajax._evaluate import Summary as Summary
from metajax._evaluate import evaluate as evaluate
from metajax._evaluate import summarize as summarize
from metajax._outer_loop import Info as Info
from metajax._outer_loop import OuterLoop as OuterLoop
from metajax._outer_loop import State as State
from metajax._outer_loop import outer_loop as outer_loop
from metajax._persistent import PersistentState as PersistentState
from metajax._persistent import persistent as persistent
from metajax._task_losses import episode as episode
from metajax._task_losses import predict as predict
from metajax._task_losses import reptile as reptile
from metajax._task_losses import supervised as supervised
from metajax._trust import Check as Check
from metajax._trust import check_meta_gradient as check_meta_gradient

# Floor 4: what stands on the core.
from metajax import data as data
from metajax import losses as losses
from metajax import modalities as modalities
from metajax import nets as nets
from metajax import plots as plots
from metajax import training as training
