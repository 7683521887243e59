"""A Gaussian process on learned features: its posterior, its predictions, and its evidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from metajax._checked import checked
from metajax._checks import check_row_weights
from metajax._class_means import weighted_one_hot
from metajax._tree import as_floating, keep_rows, row_weights, widened
from metajax.inner.amortised import amortize
from metajax.inner.heads import ABSENT, embed_support, written_head
from metajax.types import Adaptation, Apply, Array, Batch, Gaussian, Params, PyTree, Size

Kernel: TypeAlias = Callable[[Array, Array], Array]
"""(features [n, d], features [m, d]) -> covariances [n, m]."""

LEAST_NOISE = 1e-4
"""Variance that is added to the learned noise: examples with equal features may differ."""


class GaussianProcess(NamedTuple):
    """What `gaussian_process` returns.

    Attributes:
        adaptation: writes the posterior, given the support set.
        apply: (params, x, key=None, *, reference=None) -> `Gaussian` [examples, k], the prediction
            by a written posterior.
        log_evidence: (params, batch, key) -> log p(y | x) of a batch, divided by the number of its
            targets. It reads `params.rule`, and needs no adaptation.
    """

    adaptation: Adaptation
    apply: Apply
    log_evidence: Callable[[Params, Batch, Array], Array]


@checked
def rbf_kernel(a_NxD: Array, b_MxD: Array) -> Array:
    """exp(-½ |a - b|²).

    >>> round(float(rbf_kernel(jnp.zeros((1, 2)), jnp.ones((1, 2)))[0, 0]), 3)
    0.368
    """
    # Not |a|² + |b|² - 2 a·b, which rounding spoils far from zero.
    square = lambda a_D: ((a_D[None] - b_MxD) ** 2).sum(axis=1)
    return jnp.exp(-jax.vmap(square)(a_NxD) / 2)


@checked
def linear_kernel(a_NxD: Array, b_MxD: Array) -> Array:
    """a·b, the covariance of a linear map with weights N(0, I): Bayesian linear regression.

    >>> linear_kernel(jnp.ones((1, 2)), jnp.ones((1, 2))).tolist()
    [[2.0]]
    """
    return a_NxD @ b_MxD.T


@checked
def gaussian_process(
    embed: Apply,
    ways: Size | None = None,
    *,
    kernel: Kernel = rbf_kernel,
    entry: str = "head",
) -> GaussianProcess:
    """A Gaussian process on learned features (a deep kernel), as an adaptation and a network.

    y = g(f(x)) + ε with cov(g(a), g(b)) = s² kernel(a/l, b/l) = K and the variance σ² of ε, which a
    row of weight w divides by w. With W the weights of the rows and k the covariances of f(x) with
    the support set, it predicts

        mean = kᵀ (K + σ² W⁻¹)⁻¹ y
        variance = s² kernel(f(x)/l, f(x)/l) - kᵀ (K + σ² W⁻¹)⁻¹ k + σ²

    and its evidence is log N(y; 0, K + σ² W⁻¹). The logarithms of s², l and σ² are learned and
    stored in `params.rule`. They start at 0, 0 and -1, and `LEAST_NOISE` is added to σ². Every
    output has a process of its own, with the same covariance.

    With `ways`, the targets of a class are 1 for its rows and -1 for the others. The mean of a
    class without support is -1e9, and a class that a batch does not have is left out of its
    evidence. The label -1 marks a row without a label.

    What is written are no weights: an inner loop after it in a chain would move the examples.

    Args:
        embed: (params, x, key, reference=...) -> features f(x) [examples, d].
        ways: number of classes. None regresses `support.y` [examples, k] itself.
        kernel: covariance of scaled features.
        entry: the entry of `params.fast` to write and to read.

    Raises:
        ValueError: ways below 1; on adaptation, a rule that was not initialised; when traced,
            features that are not [examples, d], or labels or targets of another shape; when called,
            fast weights without that entry.

    >>> from metajax.nets import identity_encoder
    >>> process = gaussian_process(identity_encoder)
    >>> params = process.adaptation.init(Params({}, {}), jax.random.key(0))
    >>> support = Batch(jnp.array([[0.0]]), jnp.array([[1.0]]))
    >>> adapted = process.adaptation.adapt(params, support, jax.random.key(0))
    >>> found = process.apply(adapted, jnp.array([[0.0], [9.0]]))
    >>> [round(float(mean), 2) for mean in found.mean[:, 0]]  # near the example, and far from it
    [0.73, 0.0]

    Source: Rasmussen and Williams 2006, sections 2.2 and 2.3; as a meta-learner, Patacchiola et al.
    2020, arXiv 1910.05199.
    """

    def init(params: Params, key: Array) -> PyTree:
        return {"log_scale": jnp.zeros(()), "log_length": jnp.zeros(()), "log_noise": -jnp.ones(())}

    def encode(params: Params, support: Batch, key: Array) -> PyTree:
        system = _system(embed, ways, kernel, params, support, key)
        solved_NxK = jax.scipy.linalg.cho_solve((system.factor, True), system.targets)
        is_absent_K = ~system.present & system.present.any()
        return {
            "features": system.features,
            "root": system.root,
            "factor": system.factor,
            "solved": system.root[:, None] * solved_NxK,
            "bias": jnp.where(is_absent_K, ABSENT, 0).astype(solved_NxK.dtype),
            "scale": system.scale,
            "length": system.length,
            "noise": system.noise,
        }

    def read(params: Params, head: PyTree, features_QxD: Array) -> Gaussian:
        scaled_QxD = widened(features_QxD) / head["length"]
        covariance_QxN = head["scale"] * kernel(scaled_QxD, head["features"])
        mean_QxK = covariance_QxN @ head["solved"] + head["bias"][None]
        weighted_NxQ = (covariance_QxN * head["root"][None]).T
        known_NxQ = jax.scipy.linalg.solve_triangular(head["factor"], weighted_NxQ, lower=True)
        own_Q = jax.vmap(lambda row: kernel(row[None], row[None])[0, 0])(scaled_QxD)
        variance_Q = head["scale"] * own_Q - (known_NxQ**2).sum(axis=0) + head["noise"]
        variance_Q = jnp.maximum(variance_Q, head["noise"])  # rounding may take it below
        return Gaussian(mean_QxK, jnp.broadcast_to(variance_Q[:, None], mean_QxK.shape))

    @checked
    def log_evidence(params: Params, batch: Batch, key: Array) -> Array:
        system = _system(embed, ways, kernel, params, batch, key)
        half_NxK = jax.scipy.linalg.solve_triangular(system.factor, system.targets, lower=True)
        square_K = (half_NxK**2).sum(axis=0)
        # A row of weight 0 has σ on the diagonal of the factor, and must not count.
        is_used_N = system.root != 0
        diagonal_N = jnp.where(is_used_N, jnp.diag(system.factor), 1)
        root_N = jnp.where(is_used_N, system.root, 1)
        log_size = (jnp.log(diagonal_N) - jnp.log(root_N)).sum()
        rows = is_used_N.sum()
        of_output_K = -square_K / 2 - log_size - rows * math.log(2 * math.pi) / 2
        total = jnp.where(system.present, of_output_K, 0).sum()
        return total / jnp.maximum(rows * system.present.sum(), 1)

    adaptation = amortize(init, encode, entry=entry)
    return GaussianProcess(adaptation, written_head(embed, read, entry=entry), log_evidence)


class _System(NamedTuple):
    """W½ K W½ + σ² I of a batch, as a Cholesky factor, and its right side W½ y.

    `root` is W½ [examples], and `present` says which outputs the batch knows, bool[k].
    """

    features: Array
    root: Array
    factor: Array
    targets: Array
    present: Array
    scale: Array
    length: Array
    noise: Array


def _system(
    embed: Apply, ways: int | None, kernel: Kernel, params: Params, batch: Batch, key: Array
) -> _System:
    """The linear system of a batch.

    Raises:
        ValueError: a rule that was not initialised.
    """
    if not isinstance(params.rule, dict) or "log_noise" not in params.rule:
        raise ValueError(
            f"params.rule is {params.rule!r}; call params = adaptation.init(params, key) first."
        )
    features_NxD = widened(embed_support(embed, params, batch, key))
    dtype = features_NxD.dtype
    weight_N, target_NxK, present_K = _targets(batch, ways)
    rule = {name: jnp.exp(leaf.astype(dtype)) for name, leaf in params.rule.items()}
    scale, length, noise = rule["log_scale"], rule["log_length"], rule["log_noise"] + LEAST_NOISE
    is_used_N = weight_N != 0  # a weight that is NaN must make the result NaN
    root_N = jnp.where(is_used_N, jnp.sqrt(jnp.where(is_used_N, weight_N, 1)), 0).astype(dtype)
    scaled_NxD = keep_rows(is_used_N, features_NxD) / length
    covariance_NxN = root_N[:, None] * scale * kernel(scaled_NxD, scaled_NxD) * root_N[None]
    # Beside large covariances, rounding is larger than the noise.
    rounding = 4 * jnp.finfo(dtype).eps * jnp.trace(covariance_NxN)
    identity_NxN = jnp.eye(len(root_N), dtype=dtype)
    factor_NxN = jnp.linalg.cholesky(covariance_NxN + (noise + rounding) * identity_NxN)
    targets_NxK = root_N[:, None] * target_NxK.astype(dtype)
    return _System(scaled_NxD, root_N, factor_NxN, targets_NxK, present_K, scale, length, noise)


def _targets(batch: Batch, ways: int | None) -> tuple[Array, Array, Array]:
    """The weight of each row [n], its targets [n, k], and which outputs there are, bool[k]."""
    if ways is not None:
        weighted_NxW = weighted_one_hot(batch, ways)
        # The row of a label that is no class is NaN, and stays so.
        target_NxW = jnp.where(weighted_NxW == 0, -1.0, jnp.sign(weighted_NxW))
        return weighted_NxW.sum(axis=1), target_NxW, (weighted_NxW != 0).any(axis=0)
    if jnp.ndim(batch.y) != 2:
        raise ValueError(f"To regress, y must be [examples, k], got shape {jnp.shape(batch.y)}.")
    check_row_weights(batch.weight, len(batch.y))
    weight_N = row_weights(batch)
    target_NxK = keep_rows(weight_N != 0, as_floating(batch.y))
    return weight_N, target_NxK, jnp.ones(target_NxK.shape[1], bool)
