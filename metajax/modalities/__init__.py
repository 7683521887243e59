"""Several modalities: how much each deserves, what a class's description is worth, and what happens without one."""

from metajax.modalities import corruptions as corruptions
from metajax.modalities.alignment import cca as cca
from metajax.modalities.alignment import info_nce as info_nce
from metajax.modalities.alignment import recall as recall
from metajax.modalities.alignment import sigmoid_loss as sigmoid_loss
from metajax.modalities.alignment import triplet as triplet
from metajax.modalities.annotations import annotated as annotated
from metajax.modalities.annotations import remove_modalities as remove_modalities
from metajax.modalities.balance import Losses as Losses
from metajax.modalities.balance import blending_weights as blending_weights
from metajax.modalities.balance import gradient_blending as gradient_blending
from metajax.modalities.balance import ogm_ge as ogm_ge
from metajax.modalities.class_information import Describe as Describe
from metajax.modalities.class_information import adaptive_prototypes as adaptive_prototypes
from metajax.modalities.class_information import (
    compare_side_information as compare_side_information,
)
from metajax.modalities.class_information import cross_modal_prototypes as cross_modal_prototypes
from metajax.modalities.class_information import described_head as described_head
from metajax.modalities.corruptions import corrupt as corrupt
from metajax.modalities.distillation import distill_features as distill_features
from metajax.modalities.distillation import distill_logits as distill_logits
from metajax.modalities.distillation import meta_distillation as meta_distillation
from metajax.modalities.heads import Encode as Encode
from metajax.modalities.heads import late_head as late_head
from metajax.modalities.heads import modal_prototypes as modal_prototypes
from metajax.modalities.heads import scores as scores
from metajax.modalities.measurement import first_shots as first_shots
from metajax.modalities.measurement import known as known
from metajax.modalities.missing import all_subsets as all_subsets
from metajax.modalities.missing import drop_modalities as drop_modalities
from metajax.modalities.missing import learned_dropout as learned_dropout
from metajax.modalities.missing import presence as presence
from metajax.modalities.missing import restrict as restrict
from metajax.modalities.missing import shapley as shapley
from metajax.modalities.missing import subsets as subsets
from metajax.modalities.pairs import pair_loss as pair_loss
from metajax.modalities.reconstruction import complete as complete
from metajax.modalities.reconstruction import completed as completed
from metajax.modalities.reconstruction import init_completion as init_completion
from metajax.modalities.reconstruction import modality_priors as modality_priors
from metajax.modalities.reconstruction import prior_weights as prior_weights
from metajax.modalities.rulers import Ruler as Ruler
from metajax.modalities.rulers import first_crossing as first_crossing
from metajax.modalities.rulers import ruler as ruler
from metajax.modalities.rulers import ruler_table as ruler_table
from metajax.modalities.severity import Robustness as Robustness
from metajax.modalities.severity import robustness as robustness
from metajax.modalities.severity import severity_curve as severity_curve
from metajax.modalities.weighting import leave_one_out_loss as leave_one_out_loss
from metajax.modalities.weighting import support_weights as support_weights
