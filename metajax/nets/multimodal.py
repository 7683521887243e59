"""A net over several modalities: an encoder for each, a fusion, and a head."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

import jax.numpy as jnp
from flax import nnx

from metajax._tree import clear_absent
from metajax.nets.fusion.protocol import Fused
from metajax.types import Array, Modalities


class Multimodal(nnx.Module):
    """Encoders, fusion, and a linear head: y = head(fusion({name: encoderₘ(xₘ)}, present)).

    What stands in an absent modality changes nothing: no output, no gradient, no normalisation statistic.

    Args:
        encoders: {name: module}, each from its modality to [n, width]; those with a method "tokens" may feed a fusion
            that reads tokens, any other one counts as a single token.
        fusion: a function or module `(features, present) -> Fused`; see `metajax.nets.fusion`.
        width: of the features of every modality and of the fusion.
        outputs: width of the head, the number of ways; not for a fusion that decides itself, `Late`.
        rngs: for the head.

    Raises:
        ValueError: when called, modalities that are not those of the encoders.

    >>> import jax, metajax as mj
    >>> rngs = nnx.Rngs(0)
    >>> encoders = {"image": mj.nets.Conv4(8, width=4, rngs=rngs), "audio": mj.nets.MLP(5, (6,), 8, rngs=rngs)}
    >>> net = Multimodal(encoders, mj.nets.fusion.mean, 8, 3, rngs=rngs)
    >>> x = mj.data.as_modalities({"image": jnp.ones((2, 28, 28, 1)), "audio": jnp.ones((2, 5))})
    >>> net(x).shape, net.weigh(x)["audio"].tolist()
    ((2, 3), [0.5, 0.5])
    """

    def __init__(
        self,
        encoders: Mapping[str, nnx.Module],
        fusion: Callable[..., Fused],
        width: int,
        outputs: int | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ):
        decides = getattr(fusion, "decides", False)
        if decides != (outputs is None) or decides != (rngs is None):
            raise ValueError(
                f"Give outputs and rngs for the head, or a fusion that decides itself; got {outputs=}."
            )
        self.encoders = nnx.Dict(dict(sorted(encoders.items())))
        self.fusion = fusion
        self.head = (
            None if outputs is None or rngs is None else nnx.Linear(width, outputs, rngs=rngs)
        )

    def encode(self, x: Modalities, reference: Array | None = None) -> dict[str, Array]:
        """The features of every modality, {name: [n, width]}; for an absent one they have no meaning."""
        return self._encode(x, reference, "__call__")

    def embed(self, x: Modalities, reference: Array | None = None) -> Array:
        """The fused features, [n, width]."""
        return self._fuse(x, reference).features

    def weigh(self, x: Modalities, reference: Array | None = None) -> dict[str, Array]:
        """How much each modality counted, {name: [n]}; empty for a fusion that computes no weights."""
        return self._fuse(x, reference).weights

    def decide(self, features: Modalities) -> Array:
        """[n, outputs] from what `encode` made, for a fusion of vectors: encoders run once for many subsets."""
        y = self.fusion(features.value, features.present).features
        return y if self.head is None else self.head(y)

    def __call__(self, x: Modalities, reference: Array | None = None) -> Array:
        """[n, outputs]."""
        y = self.embed(x, reference)
        return y if self.head is None else self.head(y)

    def _fuse(self, x: Modalities, reference: Array | None) -> Fused:
        if not getattr(self.fusion, "reads_tokens", False):
            return self.fusion(self._encode(x, reference, "__call__"), x.present)
        tokens, valid = {}, {}
        for name, made in self._encode(x, reference, "tokens").items():
            own, meant = (
                made if isinstance(made, tuple) else (made[:, None], jnp.ones((len(made), 1), bool))
            )
            tokens[name], valid[name] = own, meant & x.present[name][:, None]
        return self.fusion(tokens, valid)

    def _encode(self, x: Modalities, reference: Array | None, method: str) -> dict:
        if not isinstance(x, Modalities) or sorted(x.value) != list(self.encoders):
            got = sorted(x.value) if isinstance(x, Modalities) else type(x).__name__
            raise ValueError(f"This net has encoders for {list(self.encoders)}, got {got}.")
        x, features = clear_absent(x), {}
        for name, encoder in self.encoders.items():
            here = x.present[name] if reference is None else x.present[name] & (reference > 0)
            function = getattr(encoder, method, encoder.__call__)
            takes = "reference" in inspect.signature(function).parameters
            features[name] = function(x.value[name], **({"reference": here} if takes else {}))
        return features
