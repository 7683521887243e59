"""Samplers of tasks: pure functions (dataset, key) -> task."""

from metajax.data.tasks.drawing import take_examples as take_examples
from metajax.data.tasks.few_shot import batches as batches
from metajax.data.tasks.few_shot import check_task as check_task
from metajax.data.tasks.few_shot import episodes as episodes
from metajax.data.tasks.few_shot import meta_batch as meta_batch
from metajax.data.tasks.fingerprints import fingerprint as fingerprint
from metajax.data.tasks.functions import harmonics as harmonics
from metajax.data.tasks.functions import regressions as regressions
from metajax.data.tasks.functions import sinusoids as sinusoids
from metajax.data.tasks.grouped import grouped_episodes as grouped_episodes
from metajax.data.tasks.modes import task_modes as task_modes
from metajax.data.tasks.partial_labels import noisy_labels as noisy_labels
from metajax.data.tasks.partial_labels import semi_supervised as semi_supervised
from metajax.data.tasks.pixels import image_completion as image_completion
from metajax.data.tasks.processes import gaussian_processes as gaussian_processes
from metajax.data.tasks.processes import matern as matern
from metajax.data.tasks.processes import rbf as rbf
from metajax.data.tasks.replay import load_tasks as load_tasks
from metajax.data.tasks.replay import save_tasks as save_tasks
from metajax.data.tasks.risks import risky_batch as risky_batch
from metajax.data.tasks.sequences import continual as continual
from metajax.data.tasks.structural_models import structural_tables as structural_tables
from metajax.data.tasks.varied import varied_episodes as varied_episodes
