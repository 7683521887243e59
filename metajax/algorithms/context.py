"""Meta-learners that adapt a small context of the net, or its modulation."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.flatten_util import ravel_pytree

from metajax._checked import checked
from metajax._tree import as_floating
from metajax.algorithms.learners import MakeLoss, Net, as_function, in_part, loss_of
from metajax.inner import chain, film, inner_loop, modulate, modulated
from metajax.losses import squared_error
from metajax.nets import functional, join_params
from metajax.outer import query_loss
from metajax.types import Apply, Array, Batch, Count, Learner, Params, PyTree


@checked
def cavia(
    net: Net,
    *,
    context: int = 5,
    loss: MakeLoss = squared_error,
    inner_rate: float = 1.0,
    inner_steps: Count = 1,
    inductive: bool = False,
) -> Learner:
    """CAVIA: gradient descent on a few context numbers, which are an input of the net.

    φ' = φ - α∇_φ L(φ, θ), from φ = 0. The net's own weights θ are slow. For FiLM layers as the
    context, as in the paper's convolutional nets, compose `modulated` and `film` with the net slow.

    Args:
        net: a Flax module or (apply, params). The last axis of its input has `context` features
            more than that of x; the context is appended to every place of x.
        context: number of context parameters.
        loss: what makes the loss of the network, such as `cross_entropy`.
        inner_rate: α.
        inner_steps: number of steps of gradient descent.
        inductive: whether statistics of norms come from the support set only.

    Source: Zintgraf et al. 2019, arXiv 1810.03642, whose figures for sinusoids are the defaults.

    Checked against: the published error of sinusoids, in the paper's protocol.
    """
    apply, params = as_function(net)
    with_context = _with_context(apply)
    of_net = loss_of(loss, with_context)
    adaptation = inner_loop(of_net, optax.sgd(inner_rate), steps=inner_steps)
    params = Params(fast={"context": jnp.zeros(context)}, slow=join_params(params))
    task_loss = query_loss(adaptation, of_net, inductive=inductive)
    return Learner(with_context, params, adaptation, task_loss)


@checked
def mmaml(
    net: Net,
    reader: Callable[[int], nnx.Module],
    *,
    loss: MakeLoss = squared_error,
    items: Callable[[Params, Batch, Array], Array] | None = None,
    inner_rate: float = 0.01,
    inner_steps: Count = 5,
    head: str = "head",
    inductive: bool = False,
) -> Learner:
    """MMAML: a net reads the support set and modulates the start of MAML.

    It is for tasks of several kinds.

    Every layer but the head is modulated by FiLM. The modulation is computed, and then frozen while
    the other weights descend.

    Args:
        net: a Flax module or (apply, params); all weights are fast.
        reader: number of outputs -> Flax module that reads the support set, a `Series` [1, n, d],
            such as `lambda outputs: DeepSets(2, outputs, rngs=rngs)`.
        loss: what makes the loss of the network, such as `cross_entropy`.
        items: (params, support, key) -> what the reader reads of each example, [n, d]; None takes
            x and y.
        inner_rate: step size on the mean loss.
        inner_steps: number of steps of gradient descent.
        head: the part of the net, at its top level, that is not modulated.
        inductive: whether statistics of norms come from the support set only.

    Raises:
        ValueError: no layer to modulate, or no part with the name of the head.

    Source: Vuorio et al. 2019, arXiv 1910.13616.

    Checked against: the modulation of layers, written out; it is MAML where nothing is modulated.
    """
    apply, params = as_function(net)
    is_head = in_part(head)
    if not any(is_head(name) for name in params.fast):
        raise ValueError(f"The net has no part {head!r}; give head= one of {sorted(params.fast)}.")
    modulation = film({name: part for name, part in params.fast.items() if not is_head(name)})
    params = params._replace(fast={**params.fast, "modulation": modulation})
    size = ravel_pytree(modulation)[0].size

    modulated_apply: Apply = modulated(apply)  # type: ignore[assignment]
    of_net = loss_of(loss, modulated_apply)
    read, start = functional(reader(size))
    adaptation = chain(
        modulation=modulate(read, start, items=items),
        descent=inner_loop(of_net, _frozen_modulation(inner_rate), steps=inner_steps),
    )
    params = adaptation.init(params, jax.random.key(0))
    task_loss = query_loss(adaptation, of_net, inductive=inductive)
    return Learner(modulated_apply, params, adaptation, task_loss)


def _with_context(apply: Apply) -> Apply:
    """The net that gets the context in `params.fast["context"]` as additional features."""

    def call(
        params: Params, x: Array, key: Array | None = None, *, reference: Array | None = None
    ) -> Array:
        x = as_floating(x)
        context = params.fast["context"].astype(x.dtype)
        everywhere = jnp.broadcast_to(context, (*x.shape[:-1], len(context)))
        net = params._replace(fast={})
        return apply(net, jnp.concatenate([x, everywhere], axis=-1), key, reference=reference)

    return call


def _frozen_modulation(rate: float) -> optax.GradientTransformation:
    """Gradient descent of everything but the modulation."""

    def label(fast: PyTree) -> dict[str, str]:
        return {name: "freeze" if name == "modulation" else "move" for name in fast}

    return optax.multi_transform({"move": optax.sgd(rate), "freeze": optax.set_to_zero()}, label)
