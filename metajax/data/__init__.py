"""Data sets on the device, and tasks drawn from them."""

from metajax._tree import modalities as modalities
from metajax.data.arrays import Dataset as Dataset
from metajax.data.arrays import dataset as dataset
from metajax.data.arrays import select as select
from metajax.data.episodes import batches as batches
from metajax.data.episodes import check_task as check_task
from metajax.data.episodes import episodes as episodes
from metajax.data.episodes import meta_batch as meta_batch
from metajax.data.glyphs import ScriptSplit as ScriptSplit
from metajax.data.glyphs import glyphs as glyphs
from metajax.data.glyphs import split_scripts as split_scripts
from metajax.data.packs import omniglot as omniglot
from metajax.data.splits import split_classes as split_classes
from metajax.data.synthetic import sinusoids as sinusoids
