"""Meta-learners that learn from streams without forgetting."""

from __future__ import annotations

import jax
import optax
from flax import nnx

from metajax._checked import checked
from metajax.algorithms.learners import MakeLoss, Net, as_function, in_part, loss_of, with_part
from metajax.differentiate import Strategy
from metajax.inner import inner_loop
from metajax.losses import cross_entropy
from metajax.nets import join_params
from metajax.outer import online, query_loss
from metajax.types import Array, Learner, Params, PyTree, Size


@checked
def oml(
    net: Net,
    *,
    loss: MakeLoss = cross_entropy,
    inner_rate: float = 0.03,
    chunk: Size = 1,
    head: str = "head",
    differentiate: Strategy | None = None,
    inductive: bool = False,
) -> Learner:
    """OML: learns features on which online learning of a head does not forget.

    θₜ = θₜ₋₁ - α∇L(θₜ₋₁, example t), for one example of the support set after the other, in their
    order, and the outer loss is that of the query set after the last one. Give it support sets
    whose classes come one after the other, as `data.episodes` draws them. The paper learns a
    representation of several layers and a head of several; here `head` says which parts are fast,
    and the start of the head is learned, too.

    Args:
        net: a Flax module or (apply, params).
        loss: what makes the loss of the network, such as `cross_entropy`.
        inner_rate: α, on the mean loss of a chunk.
        chunk: examples in each step of the inner loop.
        head: the part of the net that is fast: a name in the paths of its weights.
        differentiate: how derivatives pass through each step; None is `unroll()`.
        inductive: whether statistics of norms come from the support set only.

    Raises:
        ValueError: no weight belongs to the head.

    Source: Javed and White 2019, arXiv 1905.12588.

    Checked against: the steps in NumPy, and their derivative by central differences.
    """
    apply, params = as_function(net, fast=in_part(head))
    of_net = loss_of(loss, apply)
    step = inner_loop(of_net, optax.sgd(inner_rate), steps=1, differentiate=differentiate)
    stream = online(step, of_net, chunk=chunk).adaptation
    return Learner(apply, params, stream, query_loss(stream, of_net, inductive=inductive))


@checked
def anml(
    encoder: Net,
    gate: Net,
    width: Size,
    ways: Size,
    *,
    rngs: nnx.Rngs,
    loss: MakeLoss = cross_entropy,
    inner_rate: float = 0.03,
    chunk: Size = 1,
    differentiate: Strategy | None = None,
    inductive: bool = False,
) -> Learner:
    """ANML: a second net opens and closes the features of each example, where a stream is learned.

    logits = W·(encoder(x) ⊙ sigmoid(gate(x))) + b. The encoder and W are fast and change with every
    example as in `oml`; the gate is among the slow weights, `params.slow["gate"]`.

    Args:
        encoder: a Flax module or (apply, params) whose output is [examples, width].
        gate: the same, of the same width.
        width: features of both.
        ways: classes.
        rngs: for the head.
        loss: what makes the loss of the network, such as `cross_entropy`.
        inner_rate: step size on the mean loss of a chunk.
        chunk: examples in each step of the inner loop.
        differentiate: how derivatives pass through each step; None is `unroll()`.
        inductive: whether statistics of norms come from the support set only.

    Raises:
        ValueError: an encoder with a part "classifier" or "gate".

    Source: Beaulieu et al. 2020, arXiv 2002.09571.

    Checked against: the steps in NumPy, and their derivative by central differences.
    """
    embed, params = as_function(encoder)
    open_gate, gate_params = as_function(gate)
    head, head_params = as_function(nnx.Linear(width, ways, rngs=rngs))
    if "classifier" in params.fast:
        raise ValueError("The encoder has a part 'classifier', as ANML's own head; rename it.")
    params = with_part(params, "gate", join_params(gate_params))
    params = params._replace(fast={**params.fast, "classifier": head_params.fast})

    def apply(
        params: Params, x: PyTree, key: Array | None = None, *, reference: Array | None = None
    ) -> Array:
        embed_key, gate_key = (None, None) if key is None else jax.random.split(key)
        own = {name: part for name, part in params.fast.items() if name != "classifier"}
        features = embed(params._replace(fast=own), x, embed_key, reference=reference)
        of_gate = Params(params.slow["gate"], {})
        opened = jax.nn.sigmoid(open_gate(of_gate, x, gate_key, reference=reference))
        return head(Params(params.fast["classifier"], {}), features * opened)

    of_net = loss_of(loss, apply)
    step = inner_loop(of_net, optax.sgd(inner_rate), steps=1, differentiate=differentiate)
    stream = online(step, of_net, chunk=chunk).adaptation
    return Learner(apply, params, stream, query_loss(stream, of_net, inductive=inductive))
