"""The features of every modality of a batch."""

from __future__ import annotations

from typing import Protocol

import jax

from metajax._checks import check_names
from metajax._tree import as_floating, clear_absent, reference_rows
from metajax.modalities.checks import check_modalities
from metajax.types import Array, Batch, Modalities, Params


class Encode(Protocol):
    """A network that gives the features of every modality.

    Where features are computed already, it is `nets.identity_encoder`. Of a `nets.Multimodal` it is
    the method "encode": `functools.partial(apply, method="encode")`.
    """

    def __call__(
        self,
        params: Params,
        x: Modalities,
        key: Array | None = None,
        *,
        reference: Array | None = None,
    ) -> dict[str, Array]:
        """The features {name: [examples, d]}.

        Features of absent modalities are ignored. The other arguments are those of an `Apply`.
        """


def encode_batch(
    encode: Encode, params: Params, batch: Batch, key: Array | None
) -> dict[str, Array]:
    """The features of every modality of a batch, from inputs with zeros where one is absent.

    Args:
        encode: (params, x, key, reference=...) -> {name: [examples, ...]}.
        params: of `encode`.
        batch: whose x is a `Modalities`.
        key: of `encode`.

    Raises:
        ValueError: x that is not a `Modalities`, or features of a modality that x does not have.
    """
    check_modalities(batch.x)
    features = encode(params, clear_absent(batch.x), key, reference=reference_rows(batch))
    check_names(features, batch.x.value)
    return jax.tree.map(as_floating, features)
