"""Learning across tasks: task losses, outer loops, estimators of the gradient, evaluation."""

from metajax.outer.clusterings import adjusted_rand_index as adjusted_rand_index
from metajax.outer.estimators import evolution as evolution
from metajax.outer.estimators import forward as forward
from metajax.outer.evaluation import Summary as Summary
from metajax.outer.evaluation import evaluate as evaluate
from metajax.outer.evaluation import summarize as summarize
from metajax.outer.noisy_examples import example_weights as example_weights
from metajax.outer.outer_loops import Info as Info
from metajax.outer.outer_loops import OuterLoop as OuterLoop
from metajax.outer.outer_loops import State as State
from metajax.outer.outer_loops import outer_loop as outer_loop
from metajax.outer.penalties import PenaltyState as PenaltyState
from metajax.outer.penalties import penalized as penalized
from metajax.outer.persistent_evolution import PersistentState as PersistentState
from metajax.outer.persistent_evolution import persistent as persistent
from metajax.outer.prediction import predict as predict
from metajax.outer.prequential import Online as Online
from metajax.outer.prequential import Scores as Scores
from metajax.outer.prequential import online as online
from metajax.outer.task_losses import query_loss as query_loss
from metajax.outer.task_losses import reptile as reptile
from metajax.outer.task_losses import supervised as supervised
from metajax.outer.task_losses import switch_at as switch_at
from metajax.outer.task_losses import with_queries as with_queries
from metajax.outer.task_sequences import continual_loss as continual_loss
from metajax.outer.warm_start import bilevel as bilevel
