"""Training: `fit`, `scan`, `sweep`, `replay`; records, checkpoints and a bar; `save` and `load`."""

from metajax.training.checkpoints import restore_by_name as restore_by_name
from metajax.training.loops import fit as fit
from metajax.training.replays import Replayed as Replayed
from metajax.training.replays import replay as replay
from metajax.training.saving import load as load
from metajax.training.saving import save as save
from metajax.training.steps import scan as scan
from metajax.training.sweeps import Sweep as Sweep
from metajax.training.sweeps import grid as grid
from metajax.training.sweeps import sweep as sweep
