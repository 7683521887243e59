"""Training: `fit`, with records, checkpoints and a progress bar, and `scan`, a pure function."""

from metajax.training.checkpoints import restore_by_name as restore_by_name
from metajax.training.loops import fit as fit
from metajax.training.steps import scan as scan
