"""Several modalities: how much each deserves, and what happens where one is missing."""

from metajax.modalities.late import Encode as Encode
from metajax.modalities.late import late_head as late_head
from metajax.modalities.late import modal_prototypes as modal_prototypes
from metajax.modalities.ruler import Ruler as Ruler
from metajax.modalities.ruler import ruler as ruler
from metajax.modalities.ruler import ruler_table as ruler_table
from metajax.modalities.weights import leave_one_out_loss as leave_one_out_loss
from metajax.modalities.weights import support_weights as support_weights
