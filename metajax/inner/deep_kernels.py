"""An adaptation that writes the posterior of a Gaussian process on learned features."""

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
from metajax.types import Adaptation, Apply, Array, Batch, Gaussian, Params, PyTree

Kernel: TypeAlias = Callable[[Array, Array], Array]
"""(features [n, d], features [m, d]) -> covariances [n, m]."""

LEAST_NOISE = 1e-4
"""Variance that is added to the learned noise, so that the covariance has a Cholesky factor."""


@checked
def rbf_kernel(a_NxD: Array, b_MxD: Array) -> Array:
    """exp(-½ |a - b|²).

    >>> round(float(rbf_kernel(jnp.zeros((1, 2)), jnp.ones((1, 2)))[0, 0]), 3)
    0.368
    """
    square_NxM = (a_NxD**2).sum(axis=1)[:, None] + (b_MxD**2).sum(axis=1)[None]
    return jnp.exp(-jnp.maximum(square_NxM - 2 * a_NxD @ b_MxD.T, 0) / 2)


@checked
def linear_kernel(a_NxD: Array, b_MxD: Array) -> Array:
    """a·b, the covariance of a linear map with weights N(0, I): Bayesian linear regression.

    >>> linear_kernel(jnp.ones((1, 2)), jnp.ones((1, 2))).tolist()
    [[2.0]]
    """
    return a_NxD @ b_MxD.T


@checked
def gaussian_process(
    embed: Apply, ways: int | None = None, *, kernel: Kernel = rbf_kernel, entry: str = "head"
) -> Adaptation:
    """Writes the posterior of a Gaussian process on learned features (a deep kernel).

    y = g(f(x)) + ε with cov(g(a), g(b)) = s² kernel(a/l, b/l) and the variance σ² of ε, which a row
    of weight w divides by w. The logarithms of s², l and σ² are learned, and stored in
    `params.rule`. Every output has a process of its own, with the same covariance. With `ways`, it
    regresses the targets 1 and -1 of each class against the others.

    Args:
        embed: (params, x, key, reference=...) -> features f(x) [examples, d].
        ways: number of classes; the label -1 marks a row without a label. None regresses
            `support.y` [examples, k] itself.
        kernel: covariance of scaled features. `LEAST_NOISE` is added to σ², so that a covariance of
            equal rows can be factored.
        entry: the entry of `params.fast` to write, which `process_head` reads.

    Raises:
        ValueError: on adaptation, a rule that was not initialised; when traced, features that are
            not [examples, d], or labels or targets of another shape.

    Source: Rasmussen and Williams 2006, section 2.2; as a meta-learner, Patacchiola et al. 2020,
    arXiv 1910.05199.
    """

    def init(params: Params, key: Array) -> PyTree:
        return {"log_scale": jnp.zeros(()), "log_length": jnp.zeros(()), "log_noise": -jnp.ones(())}

    def encode(params: Params, support: Batch, key: Array) -> PyTree:
        system = _system(embed, ways, kernel, params, support, key)
        solved_NxK = jax.scipy.linalg.cho_solve((system.factor, True), system.targets)
        return {
            "features": system.features,
            "root": system.root,
            "factor": system.factor,
            "solved": system.root[:, None] * solved_NxK,
            "bias": _absent_bias(ways, support, system.targets),
            "scale": system.scale,
            "length": system.length,
            "noise": system.noise,
        }

    return amortize(init, encode, entry=entry)


@checked
def process_head(embed: Apply, *, kernel: Kernel = rbf_kernel, entry: str = "head") -> Apply:
    """The network that predicts by a written Gaussian process.

    mean = kᵀ(K + σ²W⁻¹)⁻¹y and variance = s² k(f(x), f(x)) - kᵀ(K + σ²W⁻¹)⁻¹k + σ², where k are
    the covariances of f(x) with the support set, and W the weights of its rows.

    Args:
        embed: (params, x, key, reference=...) -> features [examples, d].
        kernel: that of the adaptation.
        entry: the entry of `params.fast` that `gaussian_process` wrote.

    Returns:
        (params, x, key=None, *, reference=None) -> `Gaussian` with mean and variance [examples, k].
        The mean of a class without support is -1e9.

    Raises:
        ValueError: when called, fast weights without that entry.
    """

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

    return written_head(embed, read, entry=entry)


@checked
def log_evidence(
    embed: Apply, ways: int | None = None, *, kernel: Kernel = rbf_kernel
) -> Callable[[Params, Batch, Array], Array]:
    """The logarithm of the marginal likelihood of a batch, for each of its numbers.

    1/(k Σᵢ [wᵢ > 0]) Σₖ log N(yₖ; 0, K + σ²W⁻¹). Arguments are those of `gaussian_process`, whose
    rule it reads. Deep kernels are trained by it.

    Returns:
        (params, batch, key) -> scalar.

    Source: Rasmussen and Williams 2006, equation 2.30.
    """

    def evidence(params: Params, batch: Batch, key: Array) -> Array:
        system = _system(embed, ways, kernel, params, batch, key)
        half_NxK = jax.scipy.linalg.solve_triangular(system.factor, system.targets, lower=True)
        # A row of weight 0 has σ on the diagonal of the factor, and must not count.
        used_N = system.root != 0
        diagonal_N = jnp.where(used_N, jnp.diag(system.factor), 1)
        root_N = jnp.where(used_N, system.root, 1)
        log_size = (jnp.log(diagonal_N) - jnp.log(root_N)).sum()
        rows = jnp.maximum(used_N.sum(), 1)
        outputs = system.targets.shape[1]
        total = (half_NxK**2).sum() / 2 + outputs * log_size
        return -total / (rows * outputs) - math.log(2 * math.pi) / 2

    return evidence


class _System(NamedTuple):
    """W½ K W½ + σ² I of a batch and its right side W½ y, with what they are made of."""

    features: Array
    root: Array
    factor: Array
    targets: Array
    scale: Array
    length: Array
    noise: Array


def _system(
    embed: Apply, ways: int | None, kernel: Kernel, params: Params, batch: Batch, key: Array
) -> _System:
    """The linear system of a batch."""
    features_NxD = widened(embed_support(embed, params, batch, key))
    weight_N, target_NxK = _targets(batch, ways)
    rule = {name: jnp.exp(leaf.astype(features_NxD.dtype)) for name, leaf in params.rule.items()}
    scale, length, noise = rule["log_scale"], rule["log_length"], rule["log_noise"] + LEAST_NOISE
    used_N = weight_N != 0  # a weight that is NaN must make the result NaN
    root_N = jnp.where(used_N, jnp.sqrt(jnp.where(used_N, weight_N, 1)), 0)
    root_N = root_N.astype(features_NxD.dtype)
    scaled_NxD = keep_rows(used_N, features_NxD) / length
    covariance_NxN = root_N[:, None] * scale * kernel(scaled_NxD, scaled_NxD) * root_N[None]
    identity_NxN = jnp.eye(len(root_N), dtype=features_NxD.dtype)
    factor_NxN = jnp.linalg.cholesky(covariance_NxN + noise * identity_NxN)
    targets_NxK = root_N[:, None] * target_NxK.astype(features_NxD.dtype)
    return _System(scaled_NxD, root_N, factor_NxN, targets_NxK, scale, length, noise)


def _targets(batch: Batch, ways: int | None) -> tuple[Array, Array]:
    """The weight of each row, [examples], and its targets, [examples, k]."""
    if ways is not None:
        weighted_NxW = weighted_one_hot(batch, ways)
        # The row of a label that is no class is NaN, and stays so.
        return weighted_NxW.sum(axis=1), jnp.where(weighted_NxW == 0, -1.0, jnp.sign(weighted_NxW))
    if jnp.ndim(batch.y) != 2:
        raise ValueError(f"To regress, y must be [examples, k], got shape {jnp.shape(batch.y)}.")
    check_row_weights(batch.weight, len(batch.y))
    weight_N = row_weights(batch)
    return weight_N, keep_rows(weight_N != 0, as_floating(batch.y))


def _absent_bias(ways: int | None, support: Batch, targets_NxK: Array) -> Array:
    """-1e9 for a class without support, else 0."""
    if ways is None:
        return jnp.zeros(targets_NxK.shape[1], targets_NxK.dtype)
    present_W = (weighted_one_hot(support, ways) != 0).any(axis=0)
    return jnp.where(present_W, 0, ABSENT).astype(targets_NxK.dtype)
