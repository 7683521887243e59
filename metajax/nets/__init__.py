"""Flax modules, and the seam that makes them functions."""

from metajax.nets import fusion as fusion
from metajax.nets import fusion_products as fusion_products
from metajax.nets import fusion_tokens as fusion_tokens
from metajax.nets.encoders import MLP as MLP
from metajax.nets.encoders import Conv4 as Conv4
from metajax.nets.functional import functional as functional
from metajax.nets.layers import Conv as Conv
from metajax.nets.layers import FrozenNorm as FrozenNorm
from metajax.nets.layers import GroupNorm as GroupNorm
from metajax.nets.layers import NoNorm as NoNorm
from metajax.nets.layers import TaskNorm as TaskNorm
from metajax.nets.layers import max_pool as max_pool
from metajax.nets.layers import patches as patches
from metajax.nets.multimodal import Multimodal as Multimodal
