"""A net over several modalities: an encoder for each, a fusion, and a head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from metajax._checked import checked
from metajax._checks import takes
from metajax._tree import clear_absent
from metajax.nets.fusion.protocol import Fused, Fusion
from metajax.types import Array, Modalities, Size


@checked
class Multimodal(nnx.Module):
    """Encoders, a fusion, and a linear head over several modalities.

    y = head(fusion({name: encoderₘ(xₘ)}, present)). The values of an absent modality change
    nothing: no output, no gradient, no normalisation statistic.

    Args:
        encoders: {name: module}, each from its modality to [n, width]. A fusion that reads tokens
            gets those of the method "tokens"; an encoder without that method counts as one token.
            An encoder of your own that normalises over examples must take `reference` and hand it
            on: else absent examples count as zeros in its statistics.
        fusion: one of `metajax.nets.fusion`, or any function or module of that protocol.
        width: width of the features of every modality and of the fusion.
        outputs: width of the head, the number of ways. None for a fusion that has heads of its own,
            such as `fusion.Late`.
        rngs: for the head.

    Raises:
        ValueError: a head for a fusion that has its own, or no head for one that has not; when
            called, modalities that are not those of the encoders.

    >>> import jax, metajax as mj
    >>> rngs = nnx.Rngs(0)
    >>> encoders = {
    ...     "image": mj.nets.Conv4(8, width=4, rngs=rngs),
    ...     "audio": mj.nets.MLP(5, (6,), 8, rngs=rngs),
    ... }
    >>> net = Multimodal(encoders, mj.nets.fusion.mean, 8, 3, rngs=rngs)
    >>> x = mj.data.as_modalities({"image": jnp.ones((2, 28, 28, 1)), "audio": jnp.ones((2, 5))})
    >>> net(x).shape, net.weigh(x)["audio"].tolist()
    ((2, 3), [0.5, 0.5])
    """

    def __init__(
        self,
        encoders: Mapping[str, nnx.Module],
        fusion: Fusion,
        width: Size,
        outputs: Size | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ):
        decides = getattr(fusion, "decides", False)
        if decides != (outputs is None) or decides != (rngs is None):
            raise ValueError(
                "Give outputs and rngs for the head, or a fusion that has heads of its own; "
                f"got {outputs=}."
            )
        self.encoders = nnx.Dict(dict(sorted(encoders.items())))
        self.fusion = fusion
        self.head = _make_head(width, outputs, rngs)

    def encode(self, x: Modalities, reference: Array | None = None) -> dict[str, Array]:
        """The features of every modality, {name: [n, width]}; arbitrary where it is absent."""
        return self._encode(x, reference, "__call__")

    def embed(self, x: Modalities, reference: Array | None = None) -> Array:
        """The fused features, [n, width]."""
        return self._fuse(x, reference).features

    def weigh(self, x: Modalities, reference: Array | None = None) -> dict[str, Array]:
        """The weight of each modality, {name: [n]}; empty for a fusion without weights."""
        return self._fuse(x, reference).weights

    def decide(self, features: Modalities) -> Array:
        """The output from features that `encode` has made, for a fusion that reads vectors.

        The encoders then run once for many subsets of the modalities.

        Args:
            features: value {name: [n, width]}, present {name: bool[n]}.

        Returns:
            [n, outputs].
        """
        return self._decide(self.fusion(features.value, features.present).features)

    def __call__(self, x: Modalities, reference: Array | None = None) -> Array:
        """The output for several modalities.

        Args:
            x: the modalities of n examples.
            reference: bool[n], the examples that normalisation statistics are computed from. None
                means all examples. Of each modality only those count that have it.

        Returns:
            [n, outputs].

        Raises:
            ValueError: modalities that are not those of the encoders.
        """
        return self._decide(self.embed(x, reference))

    def _decide(self, fused: Array) -> Array:
        return fused if self.head is None else self.head(fused)

    def _fuse(self, x: Modalities, reference: Array | None) -> Fused:
        if not getattr(self.fusion, "reads_tokens", False):
            return self.fusion(self.encode(x, reference), x.present)
        tokens = {}
        valid = {}
        for name, encoded in self._encode(x, reference, "tokens").items():
            own, own_valid = encoded if isinstance(encoded, tuple) else _as_one_token(encoded)
            tokens[name] = own
            valid[name] = own_valid & x.present[name][:, None]
        return self.fusion(tokens, valid)

    def _encode(self, x: Modalities, reference: Array | None, method: str) -> dict[str, Any]:
        """{name: result of this method of its encoder, or of `__call__` if it has none}."""
        if not isinstance(x, Modalities) or sorted(x.value) != list(self.encoders):
            got = sorted(x.value) if isinstance(x, Modalities) else type(x).__name__
            raise ValueError(f"This net has encoders for {list(self.encoders)}, got {got}.")
        x = clear_absent(x)
        encoded = {}
        for name, encoder in self.encoders.items():
            function = getattr(encoder, method, encoder.__call__)
            options = {}
            if takes(function, "reference"):
                present = x.present[name]
                options["reference"] = present if reference is None else present & (reference > 0)
            encoded[name] = function(x.value[name], **options)
        return encoded


def _make_head(width: int, outputs: int | None, rngs: nnx.Rngs | None) -> nnx.Linear | None:
    if outputs is None or rngs is None:
        return None
    return nnx.Linear(width, outputs, rngs=rngs)


def _as_one_token(features: Array) -> tuple[Array, Array]:
    """[n, width] -> (tokens [n, 1, width], valid bool[n, 1], all True)."""
    return features[:, None], jnp.ones((len(features), 1), bool)
