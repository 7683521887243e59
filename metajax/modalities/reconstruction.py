"""Features of a missing modality, reconstructed from those that are present (SMIL)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._tree import as_floating, clear_absent, keep_rows
from metajax.modalities.checks import check_modalities
from metajax.modalities.encoding import Encode
from metajax.types import Apply, Array, Modalities, Params, PyTree, Size

_SOFTPLUS_IS_ONE = math.log(math.e - 1)
"""softplus of it is 1."""


@checked
def init_completion(
    priors: Mapping[str, Array], key: Array, *, hidden: Size = 32
) -> dict[str, PyTree]:
    """The parameters of `complete` before training.

    Args:
        priors: {name: [K, d]}, such as `modality_priors`. K and d may differ between modalities.
        key: for the weights.
        hidden: width h of the networks that read features.

    Returns:
        {"priors": as given, "weigh": {name: {other: {"in" [d, h], "shift" [h], "out" [h, K]}}},
        "spread": {name: {"kernel" [d, d], "bias" [d]}}}. All of them can be learned. To keep some
        of them fixed, such as the priors in the paper, use `optax.multi_transform`, or replace them
        where `complete` is called.

    Raises:
        ValueError: priors that are not real numbers [K, d], or hidden below 1.
    """
    shapes = {name: jnp.shape(prior) for name, prior in priors.items()}
    real = all(jnp.issubdtype(jnp.result_type(prior), jnp.inexact) for prior in priors.values())
    if not shapes or not real or any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(f"Every prior must be real numbers [K, d], got shapes {shapes}.")
    names = sorted(priors)
    dtype = jnp.result_type(*priors.values())
    keys = iter(jax.random.split(key, 2 * len(names) ** 2))

    def kernel(inputs: int, outputs: int) -> Array:
        return jax.random.normal(next(keys), (inputs, outputs), dtype) / inputs**0.5

    def reader(name: str, other: str) -> dict[str, Array]:
        """The network that reads features of `other` and weighs the priors of `name`."""
        return {
            "in": kernel(shapes[other][1], hidden),
            "shift": jnp.zeros(hidden, dtype),
            "out": kernel(hidden, shapes[name][0]),
        }

    def spread(width: int) -> dict[str, Array]:
        return {"kernel": jnp.zeros((width, width), dtype), "bias": jnp.zeros(width, dtype)}

    return {
        "priors": {name: jnp.asarray(priors[name]) for name in names},
        "weigh": {
            name: {other: reader(name, other) for other in names if other != name} for name in names
        },
        "spread": {name: spread(width) for name, (_, width) in shapes.items()},
    }


@checked
def complete(
    weights: Mapping[str, PyTree], features: Modalities, key: Array | None = None
) -> Modalities:
    """Features of all modalities: a missing one is a weighted mean of its priors.

    The weights of the priors c are read from the modalities that are present. With pⱼ = 1 where
    modality j is present, and 0 where it is absent,

        f̂ₘ = Σₖ ωₘₖ cₘₖ,  ωₘ = softmax(Σ_{j≠m} pⱼ Vₘⱼᵀ tanh(Uₘⱼᵀ fⱼ + bₘⱼ)).

    In an example without any modality, f̂ₘ is the mean of the priors. With a key, as in training,
    all features are then multiplied by noise around 1:

        f ⊙ softplus(r),  rᵢ ~ N(log(e - 1), σᵢ²),  σ = softplus(Sᵀ f + s).

    SMIL is a `query_loss` whose support set lacks modalities and whose query set has all, with
    `complete` in the network, the network fast and `weights` slow: the reconstruction is learned
    through the second derivative.

    Args:
        weights: as `init_completion` makes them: c is "priors"; U, b and V are in "weigh"; S and s
            are in "spread".
        features: {name: [n, d]}. Values of absent modalities are ignored.
        key: for the noise. None adds no noise.

    Returns:
        The features, with all modalities present.

    Raises:
        ValueError: features of other modalities or another width than the priors, or a presence
            that does not fit the features.

    Source: Ma et al. 2021, arXiv 2103.05677. The softmax, and noise whose mean is not learned, are
    not from the paper.
    """
    omega = prior_weights(weights, features)
    value = jax.tree.map(as_floating, clear_absent(features).value)
    names = sorted(value)
    filled = {}
    for name in names:
        mean_NxD = (omega[name] @ weights["priors"][name]).astype(value[name].dtype)
        filled[name] = jnp.where(features.present[name][:, None], value[name], mean_NxD)
    if key is not None:
        for name, noise_key in zip(names, jax.random.split(key, len(names)), strict=True):
            filled[name] = _with_noise(weights["spread"][name], filled[name], noise_key)
    return Modalities(filled, {name: jnp.ones_like(features.present[name]) for name in names})


@checked
def prior_weights(weights: Mapping[str, PyTree], features: Modalities) -> dict[str, Array]:
    """The weights ω of the priors in `complete`, {name: [n, K]}. They sum to 1 over K.

    Raises:
        ValueError: as for `complete`.
    """
    _check_fit(weights, features)
    value = jax.tree.map(as_floating, clear_absent(features).value)
    omega = {}
    for name, readers in weights["weigh"].items():
        shape = (len(value[name]), len(weights["priors"][name]))
        logits_NxK = jnp.zeros(shape, jnp.result_type(*value.values()))
        for other, net in sorted(readers.items()):
            hidden_NxH = jnp.tanh(value[other] @ net["in"] + net["shift"][None])
            read_NxK = keep_rows(features.present[other], hidden_NxH @ net["out"])
            logits_NxK = logits_NxK + read_NxK
        omega[name] = jax.nn.softmax(logits_NxK)
    return omega


@checked
def completed(encode: Encode, decide: Callable[..., Any], *, entry: str = "completion") -> Apply:
    """The network that encodes, completes and decides: decide(complete(encode(x))).

    With `apply, params = functional(nets.Multimodal(...))`, it is `completed(partial(apply,
    method="encode"), partial(apply, method="decide"))`. Add the parameters of the completion to the
    slow weights: `params._replace(slow={**params.slow, "completion": init_completion(priors,
    key)})`.

    Args:
        encode: (params, x, key, reference=...) -> {name: [examples, d]}.
        decide: (params, features, key) -> logits [examples, ways], where features are a
            `Modalities`.
        entry: the entry of `params.slow` with the weights of `complete`. `encode` and `decide` see
            params without it.

    Returns:
        (params, x, key=None, *, reference=None) -> logits [examples, ways].

    Raises:
        ValueError: when called, slow weights without that entry, or x that is not a `Modalities`.
    """

    @checked
    def apply(
        params: Params, x: Modalities, key: Array | None = None, *, reference: Array | None = None
    ) -> Array:
        _check_slow_entry(params, entry)
        check_modalities(x, "x")
        keys = (None, None, None) if key is None else tuple(jax.random.split(key, 3))
        slow = {name: part for name, part in params.slow.items() if name != entry}
        net = params._replace(slow=slow)
        features = encode(net, clear_absent(x), keys[0], reference=reference)
        whole = complete(params.slow[entry], Modalities(features, x.present), keys[1])
        return decide(net, whole, keys[2])

    return apply


def _with_noise(spread: PyTree, features_NxD: Array, key: Array) -> Array:
    """Features times softplus of a normal variable."""
    sigma_NxD = jax.nn.softplus(features_NxD @ spread["kernel"] + spread["bias"][None])
    normal_NxD = jax.random.normal(key, features_NxD.shape, features_NxD.dtype)
    factor_NxD = jax.nn.softplus(_SOFTPLUS_IS_ONE + sigma_NxD * normal_NxD)
    return (features_NxD * factor_NxD).astype(features_NxD.dtype)


def _check_fit(weights: Mapping[str, PyTree], features: Modalities) -> None:
    """Checks that features and their presence fit the weights of `complete`.

    Raises:
        ValueError: other modalities, another width, or a presence that does not fit.
    """
    got = {name: jnp.shape(part) for name, part in features.value.items()}
    rows = {shape[:1] for shape in got.values()}
    rows |= {jnp.shape(here) for here in features.present.values()}
    if len(rows) != 1 or features.present.keys() != got.keys():
        raise ValueError(
            f"Every modality needs a presence for each of the same examples, got features of {got}."
        )
    shapes = {name: jnp.shape(prior) for name, prior in weights["priors"].items()}
    widths = {name: shape[1:] for name, shape in shapes.items()}
    if {name: shape[1:] for name, shape in got.items()} != widths:
        raise ValueError(
            f"These weights complete modalities with priors of shapes {shapes}, got features of "
            f"{got}."
        )


def _check_slow_entry(params: Params, entry: str) -> None:
    """Checks that the slow weights have the weights of `complete`.

    Raises:
        ValueError: slow weights without the entry.
    """
    if not isinstance(params.slow, dict) or entry not in params.slow:
        is_dict = isinstance(params.slow, dict)
        got = sorted(params.slow) if is_dict else type(params.slow).__name__
        raise ValueError(
            f"params.slow needs an entry {entry!r}, made by init_completion(priors, key); got "
            f"{got}."
        )
