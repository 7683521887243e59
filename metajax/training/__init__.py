"""Training: `fit`, with records, checkpoints and a progress bar, and `scan`, a pure function."""

from metajax.training.loops import fit as fit
from metajax.training.steps import scan as scan
