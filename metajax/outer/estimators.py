"""Estimates of the outer gradient without reverse mode, for `outer_loop(value_and_grad=...)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from metajax._checked import checked
from metajax._tree import unit_vectors
from metajax.types import Array, PyTree, Size


@checked
def forward(
    function: Callable[..., Any], *, has_aux: bool = False, most: int = 1000
) -> Callable[..., Any]:
    """Exact by forward mode: a `jax.value_and_grad` for few meta-parameters and long inner loops.

    Memory does not grow with the number of inner steps. Time and memory grow with the number of
    meta-parameters, because each is a tangent of its own. Strategies with a reverse mode of their
    own (`mixed_mode`, `one_step`, `implicit`) have no forward mode.

    Args:
        function: (params, *others) -> scalar, or (scalar, aux).
        has_aux: whether there is aux.
        most: largest number of meta-parameters that is accepted.

    Raises:
        ValueError: when traced, more than `most` meta-parameters, or a strategy without forward
            mode.

    Source: Franceschi et al. 2017, arXiv 1703.01785.
    """

    def value_and_grad(params: PyTree, *others: Any) -> tuple[Any, PyTree]:
        flat, unravel = ravel_pytree(params)
        if flat.size > most:
            raise ValueError(
                f"Forward mode runs the inner loop once for each of {flat.size} meta-parameters, "
                f"and {most=}; use jax.value_and_grad with mixed_mode() or unroll(remat=2), or "
                "evolution(...), or raise `most`."
            )

        def run(flat: Array) -> Any:
            return function(unravel(flat), *others)

        def derivative(direction: Array) -> Any:
            return jax.jvp(run, (flat,), (direction,), has_aux=has_aux)

        # Primal values are the same along every direction, so they come out once.
        out_axes = (None, 0, None) if has_aux else (None, 0)
        try:
            value, slope, *aux = jax.vmap(derivative, out_axes=out_axes)(unit_vectors(flat))
        except TypeError as error:
            if "custom_vjp" not in str(error):
                raise
            raise ValueError(
                "mixed_mode(), one_step() and implicit() have a reverse mode only; under forward() "
                "use unroll(), truncated(...) or first_order()."
            ) from error
        return ((value, aux[0]) if has_aux else value), unravel(slope)

    return value_and_grad


@checked
def evolution(*, pairs: Size, std: float) -> Callable[..., Any]:
    """Antithetic evolution strategies: an estimate of the gradient from values only.

    ∇E L(φ + σε) ≈ 1/(2nσ) Σᵢ (L(φ + σεᵢ) - L(φ - σεᵢ)) εᵢ with Gaussian noise ε. It is unbiased for
    the smoothed loss, which is smoother than that of a long inner loop. Its variance grows with the
    number of meta-parameters. It needs the memory of 2n values.

    The last argument of the function is a key, or an array of keys of which the first is used.
    `outer_loop` gives its own, so that every chunk of `tasks_at_once` and every device draws its
    own noise.

    Args:
        pairs: n.
        std: σ.

    Raises:
        ValueError: pairs below 1, or a std that is not positive; when called, a last argument that
            is not a key, or params in half precision.

    Source: Salimans et al. 2017, arXiv 1703.03864; Metz et al. 2019, arXiv 1810.10180.
    """
    if not std > 0:
        raise ValueError(f"{std=} must be positive.")

    def make(function: Callable[..., Any], *, has_aux: bool = False) -> Callable[..., Any]:
        def value_and_grad(params: PyTree, *others: Any) -> tuple[Any, PyTree]:
            check_perturbable(params)
            flat, unravel = ravel_pytree(params)
            noise = jax.random.normal(_noise_key(others), (pairs, flat.size), flat.dtype)

            def value(flat: Array) -> Array:
                result = function(unravel(flat), *others)
                return result[0] if has_aux else result

            plus = jax.vmap(lambda direction: value(flat + std * direction))(noise)
            minus = jax.vmap(lambda direction: value(flat - std * direction))(noise)
            slope = (plus - minus).astype(flat.dtype) @ noise / (2 * std * pairs)
            return function(params, *others), unravel(slope)

        return value_and_grad

    return make


def check_perturbable(params: PyTree) -> None:
    """Checks that no weight is in half precision, which rounds small perturbations away.

    Raises:
        ValueError: a weight in float16 or bfloat16.
    """
    dtypes = {str(jnp.result_type(leaf)) for leaf in jax.tree.leaves(params)}
    narrow = sorted(dtypes & {"float16", "bfloat16"})
    if narrow:
        raise ValueError(
            f"Evolution strategies need weights in float32 or wider, got {', '.join(narrow)}, "
            "which rounds small perturbations away; losses.computed_in computes in half precision."
        )


def _noise_key(others: tuple[Any, ...]) -> Array:
    """A key for the noise that a loss which splits or folds its own key does not use."""
    key: Any = others[-1] if others else None
    if not jnp.issubdtype(getattr(key, "dtype", float), jax.dtypes.prng_key):
        raise ValueError(
            f"evolution() draws its noise from the last argument, a jax.random.key, got {key!r}."
        )
    first = key if jnp.ndim(key) == 0 else key[0]
    return jax.random.fold_in(first, 0x65766F6C)
