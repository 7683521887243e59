"""The inner loop: gradient descent of the fast weights on the support loss."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import Jaxpr

from metajax._checked import checked
from metajax._checks import check_loss_value, is_concrete, takes
from metajax._learnable import check_weights, needs_value
from metajax._tree import varying_like
from metajax.differentiate.strategies import Inner, InnerLoss, Strategy
from metajax.differentiate.unrolled import unroll
from metajax.inner.numbered_keys import numbered, read_number
from metajax.inner.rules import Rule
from metajax.types import Adaptation, Array, Batch, Count, Loss, Params, PyTree, Sample

UPDATES = 3
"""Updates whose derivative is checked. That of `optax.radam` is NaN from the third one on."""

POLYNOMIAL = ("add", "sub", "mul", "neg", "broadcast_in_dim", "convert_element_type")
"""Operations of JAX that have a finite derivative everywhere: those of `optax.sgd`."""

Proximity: TypeAlias = float | Callable[[Params], Array]


@checked
def inner_loop(
    loss: Loss,
    optimizer: optax.GradientTransformation | Rule,
    *,
    steps: Count,
    differentiate: Strategy | None = None,
    proximity: Proximity = 0.0,
    sample: Sample[Batch] | None = None,
    path: bool = False,
) -> Adaptation:
    """Adapts the fast weights by descending the support loss.

    θₖ₊₁ = θₖ + optimizer(∇L(θₖ; slow, support)).

    With `optax.sgd` and `unroll()` this is MAML's inner loop. Which weights are fast makes it ANIL,
    BOIL or CAVIA, and a `Rule` makes it Meta-SGD.

    Args:
        loss: (params, batch, key) -> (scalar, metrics). MAML's published step sizes belong to a
            loss that is summed over the ways: multiply them by the number of ways for a mean.
        optimizer: an optax transformation that needs nothing but gradients, params and perhaps the
            loss (`value=`), or a `Rule` for one that is learned. The derivative of a rule is not
            checked: give Adam its `eps_root` there too. docs/optax.md lists which optimizers have
            which derivatives.
        steps: number of steps; 0 changes nothing.
        differentiate: how derivatives pass through the steps; None is `unroll()`.
        proximity: λ of a term ½ λ |θ - θ₀|² that pulls toward the start (iMAML). A function of
            params gives a learned λ: `lambda params: jnp.exp(params.slow["decay"])`.
        sample: (support, key) -> the batch of one step, such as `minibatch(size)`; with a keyword
            `step` it is given the number of the step, as `in_order(size)` needs it. None uses the
            whole support set.
        path: whether to return the fast weights after every step, leaves [steps, ...], for
            `query_loss(step_weights=...)`. Such an adaptation can only be the last link of a chain.

    Raises:
        ValueError: negative steps or proximity, `path` with 0 steps, an optimizer that is neither
            or that evaluates the loss at other weights, or a strategy that does not depend on the
            steps (`implicit`) with a `Rule` or `path`; on adaptation, a rule that was not
            initialised, fast weights that are none or not floats, a loss that is not scalar, or an
            optimizer whose derivative is not finite where a gradient is zero.

    >>> loss = lambda params, batch, key: (((params.fast * batch.x - batch.y) ** 2).mean(), {})
    >>> support = Batch(x=jnp.array([1.0, 2.0]), y=jnp.array([2.0, 4.0]))
    >>> adaptation = inner_loop(loss, optax.sgd(0.1), steps=20)
    >>> params = Params(fast=jnp.array(0.0), slow=())
    >>> round(float(adaptation.adapt(params, support, jax.random.key(0)).fast), 3)
    2.0

    Source: Finn, Abbeel and Levine 2017, arXiv 1703.03400; proximity, Rajeswaran et al. 2019,
    arXiv 1909.04630.
    """
    strategy = unroll() if differentiate is None else differentiate
    if isinstance(optimizer, optax.MultiSteps):
        optimizer = optimizer.gradient_transformation()
    _check_arguments(optimizer, steps, strategy, proximity, path)
    wants_value = not isinstance(optimizer, Rule) and needs_value(optimizer)
    counts = sample is not None and takes(sample, "step")
    whole_loss = _inner_loss(loss, proximity, None, counts)
    step_loss = whole_loss if sample is None else _inner_loss(loss, proximity, sample, counts)
    # Each trace would check the same optimizer again.
    check_derivative = functools.cache(functools.partial(_check_derivative, optimizer, wants_value))

    @checked
    def init(params: Params, key: Array) -> Params:
        rule = optimizer.init(params, key) if isinstance(optimizer, Rule) else ()
        return params._replace(rule=rule)

    def inner(params: Params, support: Batch) -> Inner:
        if not jax.tree.leaves(params.fast):
            raise ValueError(
                "params.fast has no array, so there is nothing to adapt; make some of the weights "
                "fast."
            )
        check_weights(params.fast, "params.fast")
        if strategy.through_optimizer and not isinstance(optimizer, Rule):
            leaves, structure = jax.tree.flatten(params.fast)
            kinds = tuple((jnp.ndim(leaf), jnp.result_type(leaf)) for leaf in leaves)
            check_derivative(structure, kinds)
        transformation = _transformation(optimizer, params)
        # Only proximity needs the start, which otherwise is not an input of the loss.
        frozen = params if proximity else params._replace(fast=())
        inputs = (frozen, support)
        fast = varying_like(params.fast, inputs)
        return Inner(
            step_loss, whole_loss, transformation, fast, inputs, path, wants_value, steps, step_keys
        )

    def step_keys(key: Array) -> Array:
        keys = jax.random.split(key, steps)
        return numbered(keys) if counts else keys

    @checked
    def adapt(params: Params, support: Batch, key: Array) -> Params:
        return params._replace(fast=strategy.solve(inner(params, support), step_keys(key)))

    return Adaptation(init, adapt, path, inner)


def _check_arguments(
    optimizer: object, steps: int, strategy: Strategy, proximity: Proximity, path: bool
) -> None:
    """Checks the arguments of `inner_loop` as far as their annotations do not."""
    if not isinstance(optimizer, (optax.GradientTransformation, Rule)):
        raise ValueError(
            "optimizer must be an optax.GradientTransformation or a metajax.Rule, got "
            f"{optimizer!r}."
        )
    if not strategy.through_steps and (path or isinstance(optimizer, Rule)):
        raise ValueError(
            "implicit() differentiates the minimum and not the steps to it, so a learned Rule "
            "would get no gradient and path=True has no derivative; use mixed_mode() or unroll()."
        )
    is_traced = isinstance(proximity, jax.core.Tracer)
    if not callable(proximity) and (is_traced or not proximity >= 0):
        raise ValueError(
            f"proximity must be a number, 0 or more, or a function of params, got {proximity!r}."
        )
    if path and not steps:
        raise ValueError("path=True needs steps of 1 or more.")


def _transformation(
    optimizer: optax.GradientTransformation | Rule, params: Params
) -> optax.GradientTransformation:
    """The optax transformation, which a rule builds from its parameters."""
    if not isinstance(optimizer, Rule):
        return optimizer
    if not jax.tree.leaves(params.rule):
        raise ValueError("params.rule is empty; call params = adaptation.init(params, key) first.")
    return optimizer.optimizer(params.rule)


def _inner_loss(
    loss: Loss, proximity: Proximity, sample: Sample[Batch] | None, counts: bool
) -> InnerLoss:
    """What the inner loop descends, with everything that it depends on as arguments.

    With `counts`, the sampler is given the number of the step.
    """

    def value(fast: PyTree, inputs: tuple[Params, Batch], key: Array) -> Array:
        frozen, batch = inputs
        key, step = read_number(key)
        if sample is not None:
            sample_key, key = jax.random.split(key)
            batch = sample(batch, sample_key, **({"step": step} if counts else {}))
        value = check_loss_value(loss(frozen._replace(fast=fast), batch, key))
        if not proximity:
            return value
        strength = proximity(frozen) if callable(proximity) else proximity
        squares = jax.tree.map(lambda leaf, start: ((leaf - start) ** 2).sum(), fast, frozen.fast)
        return value + 0.5 * strength * sum(jax.tree.leaves(squares))

    return value


def _check_derivative(
    optimizer: optax.GradientTransformation,
    wants_value: bool,
    structure: jax.tree_util.PyTreeDef,
    kinds: tuple[tuple[int, Any], ...],
) -> None:
    """Checks that the first updates have finite derivatives where gradients are zero.

    Adam's square root has none. A dead unit has a gradient of exactly zero, and one NaN there would
    make the whole meta-gradient NaN (optax#882). Single zeros are tried, and leaves that are all
    zero beside leaves that are not, as of a dead layer. An update that is undefined only where all
    gradients are zero, such as clipping by their norm, is not found.

    Args:
        optimizer: what is checked.
        wants_value: whether it needs the loss.
        structure: of the fast weights.
        kinds: rank and dtype of each leaf. A small leaf of this kind stands for it.
    """
    ones = [np.ones((2,) * max(rank, 1), dtype) for rank, dtype in kinds]
    halves = [np.where(np.arange(2), one, 0) for one in ones]
    optimizer = optax.with_extra_args_support(optimizer)

    def update(gradients: list[Array], leaves: list[Array]) -> PyTree:
        gradients, params = (jax.tree.unflatten(structure, part) for part in (gradients, leaves))
        extra = {"value": jnp.ones(()), "grad": gradients} if wants_value else {}
        state = optimizer.init(params)
        found = []
        for _ in range(UPDATES):
            updates, state = optimizer.update(gradients, state, params, **extra)
            found.append(updates)
        return found

    def derivatives(live: Array) -> PyTree:
        """Those of the updates, where live: [leaves] is 0 for leaves whose gradient is all zero."""
        gradients = [half * one for half, one in zip(halves, live, strict=True)]
        updates, pullback = jax.vjp(update, gradients, ones)
        return pullback(jax.tree.map(jnp.ones_like, updates))

    with jax.ensure_compile_time_eval():
        if _is_polynomial(jax.make_jaxpr(update)(halves, ones).jaxpr):
            return
        odd = np.arange(len(ones)) % 2
        live = np.stack([odd * 0 + 1, odd, 1 - odd])[: 3 if len(ones) > 1 else 1]
        found = jax.jit(jax.vmap(derivatives))(live)
    # A traced step size, as under a vmap over rates, leaves no values to look at.
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found) if is_concrete(leaf)):
        raise ValueError(
            "The optimizer's update has no finite derivative where a gradient is zero, so "
            "meta-gradients would be NaN; give it a term under the square root "
            "(optax.adam(1e-3, eps_root=1e-8)) or use first_order()."
        )


def _is_polynomial(program: Jaxpr) -> bool:
    """Whether a program only adds and multiplies, so that all its derivatives are finite."""
    for equation in program.eqns:
        if equation.primitive.name in ("jit", "pjit"):
            if not _is_polynomial(equation.params["jaxpr"].jaxpr):
                return False
        elif equation.primitive.name not in POLYNOMIAL:
            return False
    return True
