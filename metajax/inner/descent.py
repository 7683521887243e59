"""The inner loop: descent of the fast weights on the support loss."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from metajax._checks import check_count, check_loss_value
from metajax.differentiate.strategies import Inner, InnerLoss, Strategy
from metajax.differentiate.unrolled import unroll
from metajax.inner.rules import Rule
from metajax.types import Adaptation, Array, Batch, Loss, Params, PyTree, Sample


def inner_loop(
    loss: Loss,
    optimizer: optax.GradientTransformation | Rule,
    *,
    steps: int,
    differentiate: Strategy | None = None,
    proximity: float | Callable[[Params], Array] = 0.0,
    sample: Sample | None = None,
    path: bool = False,
) -> Adaptation:
    """Adapts by descending the support loss: θₖ₊₁ = θₖ + optimizer(∇L(θₖ; slow, support)).

    With `optax.sgd` and `unroll()` this is MAML's inner loop (Finn, Abbeel and Levine 2017, arXiv 1703.03400); which
    weights are fast makes it ANIL, BOIL or CAVIA, and a `Rule` makes it Meta-SGD.

    Args:
        loss: (params, batch, key) -> (scalar, metrics). MAML's published step sizes belong to a sum over ways: multiply
            them by the number of ways for a mean.
        optimizer: an optax transformation that needs gradients and params only, or a `Rule` for one that is learned
            (whose derivative is not checked: give Adam its eps_root there too).
        steps: number of steps; 0 changes nothing.
        differentiate: how derivatives pass through the steps, `unroll()` where None.
        proximity: λ of a term ½ λ |θ - θ₀|² that draws toward the start (iMAML, Rajeswaran et al. 2019); a function of
            params gives a learned one, `lambda params: jnp.exp(params.slow["decay"])`.
        sample: (support, key) -> the batch of one step, such as `minibatch(size)`; None takes the whole support set.
        path: whether to return the fast weights after every step, leaves [steps, ...], for `query_loss(step_weights=...)`.
            Nothing can follow such an adaptation in a `chain`.

    Raises:
        ValueError: negative steps or proximity, an optimizer that is neither, or a strategy that knows nothing of the
            steps (`implicit`) with a `Rule` or `path`; on adaptation, a rule that was never initialised, no fast
            weights, a loss that is not scalar, or an optimizer whose derivative is not finite where a gradient is zero.

    >>> loss = lambda params, batch, key: (((params.fast * batch.x - batch.y) ** 2).mean(), {})
    >>> support = Batch(x=jnp.array([1.0, 2.0]), y=jnp.array([2.0, 4.0]))
    >>> adaptation = inner_loop(loss, optax.sgd(0.1), steps=20)
    >>> adapted = adaptation.adapt(Params(fast=jnp.array(0.0), slow=()), support, jax.random.key(0))
    >>> round(float(adapted.fast), 3)
    2.0
    """
    strategy = unroll() if differentiate is None else differentiate
    check_count("steps", steps, 0)
    if not isinstance(optimizer, (optax.GradientTransformation, Rule)):
        raise ValueError(
            f"optimizer must be an optax.GradientTransformation or a metajax.Rule, got {optimizer!r}."
        )
    if not isinstance(strategy, Strategy):
        raise ValueError(
            f"differentiate must be a strategy, such as unroll() or first_order(), got {strategy!r}."
        )
    if not strategy.through_steps and (path or isinstance(optimizer, Rule)):
        raise ValueError(
            "implicit() differentiates the minimum and not the steps to it, so a learned Rule would get no gradient "
            "and path=True has no derivative; use mixed_mode() or unroll()."
        )
    if not callable(proximity) and (isinstance(proximity, jax.core.Tracer) or not proximity >= 0):
        raise ValueError(
            f"proximity must be a number, 0 or more, or a function of params, got {proximity!r}."
        )
    if path and not steps:
        raise ValueError("path=True needs steps of 1 or more.")

    def init(params: Params, key: Array) -> Params:
        return params._replace(
            rule=optimizer.init(params, key) if isinstance(optimizer, Rule) else ()
        )

    whole = _inner_loss(loss, proximity, None)
    of_a_step = whole if sample is None else _inner_loss(loss, proximity, sample)

    def inner(params: Params, support: Batch) -> Inner:
        if not jax.tree.leaves(params.fast):
            raise ValueError(
                "params.fast has no array, so there is nothing to adapt; make some of the weights fast."
            )
        if isinstance(optimizer, Rule):
            if not jax.tree.leaves(params.rule):
                raise ValueError(
                    "params.rule is empty; call params = adaptation.init(params, key) first."
                )
            transformation = optimizer.optimizer(params.rule)
        else:
            transformation = optimizer
            if strategy.through_optimizer:
                _check_derivative(optimizer, params.fast)
        held = (
            params if proximity else params._replace(fast=())
        )  # only proximity knows of the start
        return Inner(of_a_step, whole, transformation, params.fast, (held, support), path)

    def adapt(params: Params, support: Batch, key: Array) -> Params:
        return params._replace(
            fast=strategy.solve(inner(params, support), jax.random.split(key, steps))
        )

    return Adaptation(init, adapt, path, inner)


def _inner_loss(
    loss: Loss, proximity: float | Callable[[Params], Array], sample: Sample | None
) -> InnerLoss:
    """What the inner loop descends, with all that it depends on as arguments."""

    def value(fast: PyTree, inputs: tuple[Params, Batch], key: Array) -> Array:
        held, batch = inputs
        if sample is not None:
            sample_key, key = jax.random.split(key)
            batch = sample(batch, sample_key)
        value = check_loss_value(loss(held._replace(fast=fast), batch, key))
        if not proximity:
            return value
        strength = proximity(held) if callable(proximity) else proximity
        squares = jax.tree.map(lambda leaf, start: ((leaf - start) ** 2).sum(), fast, held.fast)
        return value + 0.5 * strength * sum(jax.tree.leaves(squares))

    return value


def _check_derivative(optimizer: optax.GradientTransformation, fast: PyTree) -> None:
    """Fails where the update has no finite derivative at a gradient of zero, as Adam's square root has not.

    A dead unit has a gradient of exactly zero, and one NaN there would make the whole meta-gradient NaN (optax#882).
    What is undefined only where all gradients are zero is not found, such as clipping by their norm: a support set in
    which nothing counts then has a NaN meta-gradient.
    """
    with jax.ensure_compile_time_eval():
        gradients = jax.tree.map(lambda leaf: jnp.array([0.0, 1.0], jnp.result_type(leaf)), fast)
        state = optimizer.init(gradients)
        _, tangents = jax.jvp(
            lambda g: optimizer.update(g, state, gradients)[0], (gradients,), (gradients,)
        )
        # A step size that is traced, as under a vmap over rates, leaves nothing to look at.
        concrete = [
            tangent
            for tangent in jax.tree.leaves(tangents)
            if not isinstance(tangent, jax.core.Tracer)
        ]
        finite = all(bool(jnp.isfinite(tangent).all()) for tangent in concrete)
    if not finite:
        raise ValueError(
            "The optimizer's update has no finite derivative where a gradient is zero, so meta-gradients would be NaN; "
            "give it a term under the square root (optax.adam(1e-3, eps_root=1e-8)) or use first_order()."
        )
