"""Training: `fit`, with records, checkpoints and a progress bar; `scan`; `save` and `load`."""

from metajax.training.checkpoints import restore_by_name as restore_by_name
from metajax.training.loops import fit as fit
from metajax.training.saving import load as load
from metajax.training.saving import save as save
from metajax.training.steps import scan as scan
