"""Meta-learners by their published names, each a recipe that returns a `Learner`."""

from metajax.algorithms.averages import augmented_queries as augmented_queries
from metajax.algorithms.averages import ensemble as ensemble
from metajax.algorithms.closed_form import proto_maml as proto_maml
from metajax.algorithms.closed_form import r2d2 as r2d2
from metajax.algorithms.context import cavia as cavia
from metajax.algorithms.context import mmaml as mmaml
from metajax.algorithms.gradient import anil as anil
from metajax.algorithms.gradient import boil as boil
from metajax.algorithms.gradient import fomaml as fomaml
from metajax.algorithms.gradient import imaml as imaml
from metajax.algorithms.gradient import maml as maml
from metajax.algorithms.gradient import reptile as reptile
from metajax.algorithms.learned_steps import maml_plus_plus as maml_plus_plus
from metajax.algorithms.learned_steps import meta_sgd as meta_sgd
from metajax.algorithms.learned_steps import multi_step_weights as multi_step_weights
from metajax.algorithms.learners import as_encoder as as_encoder
from metajax.algorithms.learners import as_function as as_function
from metajax.algorithms.learners import in_part as in_part
from metajax.algorithms.metric import protonets as protonets
from metajax.algorithms.transfer import fine_tuning as fine_tuning
from metajax.algorithms.transfer import pretraining as pretraining
from metajax.algorithms.transfer import with_pretrained_body as with_pretrained_body
