"""Several modalities: how much each deserves, what a class's description is worth, and what happens without one."""

from metajax.modalities.late import Encode as Encode
from metajax.modalities.late import late_head as late_head
from metajax.modalities.late import modal_prototypes as modal_prototypes
from metajax.modalities.missing import all_subsets as all_subsets
from metajax.modalities.missing import drop_modalities as drop_modalities
from metajax.modalities.missing import learned_dropout as learned_dropout
from metajax.modalities.missing import presence as presence
from metajax.modalities.missing import restrict as restrict
from metajax.modalities.missing import shapley as shapley
from metajax.modalities.missing import subsets as subsets
from metajax.modalities.ruler import Ruler as Ruler
from metajax.modalities.ruler import ruler as ruler
from metajax.modalities.ruler import ruler_table as ruler_table
from metajax.modalities.transfer import Describe as Describe
from metajax.modalities.transfer import adaptive_prototypes as adaptive_prototypes
from metajax.modalities.transfer import cross_modal_prototypes as cross_modal_prototypes
from metajax.modalities.transfer import described_head as described_head
from metajax.modalities.transfer import judge_side_information as judge_side_information
from metajax.modalities.weights import leave_one_out_loss as leave_one_out_loss
from metajax.modalities.weights import support_weights as support_weights
