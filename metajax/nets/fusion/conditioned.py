"""A fusion in which the other modalities modulate a main one."""

from __future__ import annotations

from collections.abc import Sequence

from flax import nnx

from metajax._checked import checked
from metajax.inner import FiLM
from metajax.nets.fusion.protocol import Features, Fused, per_name, random_kernel, stack
from metajax.types import Size


@checked
class Conditioned(nnx.Module):
    """The other modalities scale and shift a main one (FiLM).

    y = (1 + Σₘ pₘ Gₘ fₘ) ⊙ f_main + Σₘ pₘ Hₘ fₘ. Where the main modality is absent, only the shifts
    are left; where all others are absent, the main one is left as it is.

    Args:
        names: names of the modalities.
        width: width of each modality and of the output.
        main: name of the main modality.
        rngs: for the weights.

    Raises:
        ValueError: a main modality that is not among the names, or is the only one; equal names.

    Parameters: 2 (M - 1) width².
    Source: Perez et al. 2018, arXiv 1709.07871.
    """

    def __init__(self, names: Sequence[str], width: Size, *, main: str, rngs: nnx.Rngs):
        others = [name for name in names if name != main]
        if main not in names or not others:
            raise ValueError(
                f"{main=} must be one of the names, and not the only one; got {sorted(names)}."
            )
        self.main = main
        self.scale = per_name(others, lambda: random_kernel(rngs, width, width, width))
        self.shift = per_name(others, lambda: random_kernel(rngs, width, width, width))

    def __call__(self, features: Features, present: Features) -> Fused:
        """Fuses {name: [n, width]} with {name: bool[n]} to [n, width]."""
        names, features_MxNxD, _ = stack(features, present, sorted([self.main, *self.scale]))
        cleared = dict(zip(names, features_MxNxD, strict=True))
        scales = [cleared[name] @ self.scale[name][...] for name in self.scale]
        shifts = [cleared[name] @ self.shift[name][...] for name in self.shift]
        film = FiLM(scale=1 + sum(scales), shift=sum(shifts))
        return Fused(film.scale * cleared[self.main] + film.shift, {})
