"""A missing modality made up for from those that are there: SMIL, as a function to put into an ordinary loss."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from scipy.cluster.vq import kmeans2

from metajax._tree import clear_absent
from metajax.modalities.heads import Encode
from metajax.types import Apply, Array, Modalities, Params, PyTree

_ONE = math.log(math.e - 1)  # where softplus is 1


def modality_priors(features: Modalities, number: int, *, seed: int = 0) -> dict[str, Array]:
    """What the features of each modality typically are: the centres of k-means, {name: [number, d]}.

    Of the examples in which the modality is present. Not for compiled code: it is scipy's, 100 rounds.

    Args:
        features: {name: [n, d]} of training examples, such as `nets.Multimodal` makes with its method "encode".
        number: K, centres of each modality.
        seed: of k-means++, which starts it.

    Raises:
        ValueError: number below 1, or more than there are different examples with some modality.

    >>> features = Modalities({"audio": jnp.array([[0.0], [2.0], [9.0]])}, {"audio": jnp.ones(3, bool)})
    >>> sorted(modality_priors(features, 2)["audio"].tolist())
    [[1.0], [9.0]]
    """
    priors = {}
    for name in sorted(features.value):
        dtype = jnp.result_type(features.value[name])
        rows_NxD = np.asarray(features.value[name], np.float64)[np.asarray(features.present[name])]
        different = len(np.unique(rows_NxD, axis=0))
        if not 1 <= number <= different:
            raise ValueError(
                f"{number=} of priors must be 1 to the {different} examples that differ in {name!r}."
            )
        with warnings.catch_warnings():  # a cluster that lost all of its members keeps its centre
            warnings.filterwarnings("ignore", "One of the clusters is empty")
            centres, _ = kmeans2(rows_NxD, number, 100, minit="++", rng=np.random.default_rng(seed))
        priors[name] = jnp.asarray(centres, dtype)
    return priors


def init_completion(
    priors: Mapping[str, Array], key: Array, *, hidden: int = 32
) -> dict[str, PyTree]:
    """Where the parameters of `complete` start.

    Args:
        priors: {name: [K, d]}, such as `modality_priors`; both may differ from one modality to the other.
        key: of the weights.
        hidden: width h of the networks that read features.

    Returns:
        {"priors": as given, "weigh": {name: {other: {"in" [d, h], "shift" [h], "out" [h, K]}}}, "spread": {name:
        {"kernel" [d, d], "bias" [d]}}}. All of it may be learned; what the outer optimizer is to leave alone, such as
        the priors of the paper, goes through `optax.multi_transform` or is put in anew where `complete` is called.

    Raises:
        ValueError: priors that are not [K, d], or hidden below 1.
    """
    shapes = {name: jnp.shape(prior) for name, prior in priors.items()}
    real = all(jnp.issubdtype(jnp.result_type(prior), jnp.inexact) for prior in priors.values())
    if hidden < 1 or not shapes or not real or any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(
            f"{hidden=} must be 1 or more and every prior real numbers [K, d], got {shapes}."
        )
    dtype, names = jnp.result_type(*priors.values()), sorted(priors)
    keys = iter(jax.random.split(key, 2 * len(names) ** 2))

    def kernel(inputs: int, outputs: int) -> Array:
        return jax.random.normal(next(keys), (inputs, outputs), dtype) / inputs**0.5

    def reader(inputs: int, outputs: int) -> dict[str, Array]:
        return {
            "in": kernel(inputs, hidden),
            "shift": jnp.zeros(hidden, dtype),
            "out": kernel(hidden, outputs),
        }

    weigh = {n: {m: reader(shapes[m][1], shapes[n][0]) for m in names if m != n} for n in names}
    spread = {
        n: {"kernel": jnp.zeros((d, d), dtype), "bias": jnp.zeros(d, dtype)}
        for n, (_, d) in shapes.items()
    }
    return {"priors": {n: jnp.asarray(priors[n]) for n in names}, "weigh": weigh, "spread": spread}


def complete(
    weights: Mapping[str, PyTree], features: Modalities, key: Array | None = None
) -> Modalities:
    """Features of all modalities: where one is missing, the mean of its priors by weights read from the others.

    f̂ₘ = Σₖ ωₘₖ cₘₖ with ωₘ = softmax(Σ_{j≠m} pⱼ Vₘⱼᵀ tanh(Uₘⱼᵀ fⱼ + bₘⱼ)), pⱼ is 1 where modality j is present and 0
    where not. What is present says in turn how likely each prior is; where nothing is, f̂ₘ is the mean of the priors.

    With a key, as in training, features are then multiplied by noise: f ⊙ softplus(r), rᵢ ~ N(log(e - 1), σᵢ²), σ =
    softplus(Sᵀ f + s). Without one they are as they are, for softplus(log(e - 1)) = 1.

    In the inner loop of an `query_loss` whose support lacks modalities and whose query has all, with the net fast and this
    slow, it is SMIL, and what it learns comes through the second derivative.

    Args:
        weights: as `init_completion` makes them; c are the priors, U, b, V stand in "weigh", S, s in "spread".
        features: {name: [n, d]}; what stands in an absent modality reaches nothing.
        key: of the noise.

    Returns:
        The same, all of them present.

    Raises:
        ValueError: features of other modalities or another width than the priors, or a presence that does not fit.

    Source: Ma et al. 2021, arXiv 2103.05677; the softmax and the mean of the noise, which is held, are ours.
    """
    counts = prior_weights(weights, features)  # which checks the features, too
    value, names = clear_absent(features).value, sorted(features.value)
    mixed = {name: weight_NxK @ weights["priors"][name] for name, weight_NxK in counts.items()}
    filled = {
        n: jnp.where(features.present[n][:, None], value[n], mixed[n].astype(value[n].dtype))
        for n in names
    }
    if key is not None:
        for name, k in zip(names, jax.random.split(key, len(names)), strict=True):
            f_NxD, s = filled[name], weights["spread"][name]
            spread_NxD = jax.nn.softplus(f_NxD @ s["kernel"] + s["bias"][None])
            r_NxD = _ONE + spread_NxD * jax.random.normal(k, f_NxD.shape, f_NxD.dtype)
            filled[name] = (f_NxD * jax.nn.softplus(r_NxD)).astype(f_NxD.dtype)
    return Modalities(filled, {name: jnp.ones_like(features.present[name]) for name in names})


def prior_weights(weights: Mapping[str, PyTree], features: Modalities) -> dict[str, Array]:
    """How much each prior counts for what `complete` puts where a modality is missing: ω, {name: [n, K]}."""
    shapes = {name: jnp.shape(prior) for name, prior in weights["priors"].items()}
    got = {name: jnp.shape(f) for name, f in features.value.items()}
    rows = {shape[:1] for shape in got.values()} | {
        jnp.shape(here) for here in features.present.values()
    }
    if len(rows) != 1 or features.present.keys() != got.keys():
        raise ValueError(
            f"Every modality needs a presence for each of the same examples, got features of {got}."
        )
    value = clear_absent(features).value
    if {name: shape[1:] for name, shape in got.items()} != {
        name: shape[1:] for name, shape in shapes.items()
    }:
        raise ValueError(
            f"These weights complete modalities with priors of shapes {shapes}, got features of {got}."
        )
    counts = {}
    for name, (number, _) in shapes.items():
        logits_NxK = jnp.zeros((got[name][0], number), jnp.result_type(*value.values()))
        for other, of in sorted(weights["weigh"][name].items()):
            says_NxK = jnp.tanh(value[other] @ of["in"] + of["shift"][None]) @ of["out"]
            logits_NxK = logits_NxK + jnp.where(features.present[other][:, None], says_NxK, 0)
        counts[name] = jax.nn.softmax(logits_NxK)
    return counts


def completed(encode: Encode, decide: Apply, *, entry: str = "completion") -> Apply:
    """The network that encodes, completes and decides, for any loss: decide(complete(encode(x))).

    With `apply, params = functional(nets.Multimodal(...))`, it is `completed(partial(apply, method="encode"),
    partial(apply, method="decide"))`, and the completion joins what is slow: `params._replace(slow={**params.slow,
    "completion": init_completion(priors, key)})`.

    Args:
        encode: (params, x, key, reference=...) -> {name: [examples, d]}.
        decide: (params, features, key) -> logits [examples, ways], where features are a `Modalities`.
        entry: of `params.slow` with the weights of `complete`; encode and decide see params without it.

    Raises:
        ValueError: when called, slow weights without that entry.
    """

    def apply(
        params: Params, x: Modalities, key: Array | None = None, *, reference: Array | None = None
    ) -> Array:
        if not isinstance(params.slow, dict) or entry not in params.slow:
            got = (
                sorted(params.slow) if isinstance(params.slow, dict) else type(params.slow).__name__
            )
            raise ValueError(
                f"params.slow needs an entry {entry!r}, made by init_completion(priors, key); got {got}."
            )
        if not isinstance(x, Modalities):
            raise ValueError(f"Need a Modalities to complete, got {type(x).__name__}.")
        net = params._replace(
            slow={name: leaf for name, leaf in params.slow.items() if name != entry}
        )
        keys = (None, None, None) if key is None else tuple(jax.random.split(key, 3))
        features = Modalities(encode(net, clear_absent(x), keys[0], reference=reference), x.present)
        return decide(net, complete(params.slow[entry], features, keys[1]), keys[2])

    return apply
