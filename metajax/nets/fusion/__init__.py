"""Fusion of the features of several modalities, any of which may be missing in any example.

A fusion is a function or module `({name: [n, width]}, {name: bool[n]}) -> Fused`. Values of an
absent modality reach neither its output nor a gradient. Where every modality is absent the output
is zero, or a bias. Modalities are distinguished by name, and their order changes nothing, except
that `StackedConvolution` and `Recurrent` read them in the order of their argument `names`.
`CrossAttention` and `Bottleneck` read tokens [n, t, width] with a mask bool[n, t].
"""

from metajax.nets.fusion.averages import Weighted as Weighted
from metajax.nets.fusion.averages import maximum as maximum
from metajax.nets.fusion.averages import mean as mean
from metajax.nets.fusion.averages import total as total
from metajax.nets.fusion.conditioned import Conditioned as Conditioned
from metajax.nets.fusion.decisions import Late as Late
from metajax.nets.fusion.gates import Gated as Gated
from metajax.nets.fusion.gates import MixtureOfExperts as MixtureOfExperts
from metajax.nets.fusion.linear import Concatenation as Concatenation
from metajax.nets.fusion.linear import Deep as Deep
from metajax.nets.fusion.ordered import Recurrent as Recurrent
from metajax.nets.fusion.ordered import StackedConvolution as StackedConvolution
from metajax.nets.fusion.products import LowRankTensor as LowRankTensor
from metajax.nets.fusion.products import Multiplicative as Multiplicative
from metajax.nets.fusion.products import ProductOfExperts as ProductOfExperts
from metajax.nets.fusion.products import Tensor as Tensor
from metajax.nets.fusion.protocol import Features as Features
from metajax.nets.fusion.protocol import Fused as Fused
from metajax.nets.fusion.protocol import Fusion as Fusion
from metajax.nets.fusion.protocol import stack as stack
from metajax.nets.fusion.tokens import Bottleneck as Bottleneck
from metajax.nets.fusion.tokens import CrossAttention as CrossAttention
