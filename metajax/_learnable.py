"""What gradient descent can learn, and what its optimizer needs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metajax.types import Params, PyTree


def check_params(params: Any) -> None:
    """Checks what an outer loop is initialised with.

    Raises:
        ValueError: not a `Params`, or a leaf that is not a floating-point array or number.
    """
    if not isinstance(params, Params):
        fields = getattr(params, "_fields", ())
        hint = "give its .params" if "params" in fields else "make one with nets.functional(module)"
        raise ValueError(f"params must be a metajax.Params, got {type(params).__name__}; {hint}.")
    check_weights(params)


def check_weights(tree: PyTree, what: str = "params") -> None:
    """Checks that every leaf of what is learned is a floating-point array or number.

    Raises:
        ValueError: the first leaf that is not, with its type.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        dtype = getattr(leaf, "dtype", None)
        is_float = isinstance(leaf, float) or (
            dtype is not None and jnp.issubdtype(dtype, jnp.floating)
        )
        if is_float:
            continue
        got = type(leaf).__name__ if dtype is None else f"{dtype}{list(jnp.shape(leaf))}"
        raise ValueError(
            f"{what}{jax.tree_util.keystr(path)} is {got}, which gradient descent cannot learn: "
            "weights are real floating-point arrays. Keep constants out of what is learned, such "
            "as in a closure or in task.context, and split complex weights into a real and an "
            "imaginary part."
        )


def needs_value(optimizer: optax.GradientTransformation) -> bool:
    """Whether an optimizer needs the loss, `value=`, besides gradients and params.

    It is found out by an update of one small array. An optimizer that is made for other weights,
    and therefore raises another error, does not need it as far as is known.

    Raises:
        ValueError: an optimizer that needs the loss at other weights, or params of its own.
    """
    extended = optax.with_extra_args_support(optimizer)
    weights = np.ones(2, np.float32)
    try:
        jax.eval_shape(lambda: extended.update(weights, extended.init(weights), weights))
    except Exception as error:  # an optimizer may raise anything
        text = str(error)
        needs_more = ("'value_fn'", "no attribute 'fast'", "must be provided")
        if any(part in text for part in needs_more):
            raise ValueError(
                "The optimizer cannot take a step of plain weights from their gradient and the "
                f"loss: {text}. Line searches (optax.lbfgs, scale_by_backtracking_linesearch) "
                "evaluate the loss at other weights, and optax.lookahead has params of its own: "
                "use another optimizer, or lbfgs(linesearch=None)."
            ) from error
        return "'value'" in text
    return False
