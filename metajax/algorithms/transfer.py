"""Transfer learning: pretraining on the union of all classes, then adapting to a task."""

from __future__ import annotations

import functools

import jax
import optax
from flax import nnx

from metajax._checked import checked
from metajax._checks import shapes
from metajax.algorithms.learners import MakeLoss, Net, as_function, embed_of, in_part, loss_of
from metajax.differentiate import first_order
from metajax.inner import chain, identity, inner_loop, learned, prototypes
from metajax.losses import cross_entropy
from metajax.nets import join_params, split_params
from metajax.nets.division import weight_paths
from metajax.outer import query_loss, supervised
from metajax.types import Count, Learner, Params


@checked
def pretraining(net: Net, *, loss: MakeLoss = cross_entropy) -> Learner:
    """Ordinary supervised training on the union of all classes, one head for all of them.

    Train it on `data.batches`. `with_pretrained_body` then makes it the start of `fine_tuning`.

    Args:
        net: a Flax module or (apply, params), with an output for every class.
        loss: what makes the loss of the network, such as `cross_entropy`.

    Source: as a baseline of meta-learning, Chen et al. 2019, arXiv 1904.04232.
    """
    apply, params = as_function(net)
    return Learner(apply, params, identity(), supervised(loss_of(loss, apply)))


@checked
def fine_tuning(
    net: nnx.Module,
    ways: int,
    *,
    loss: MakeLoss = cross_entropy,
    rate: float = 1e-3,
    steps: Count = 20,
    head_only: bool = False,
    inductive: bool = False,
) -> Learner:
    """Fine-tuning: from the head of class means, a few steps of Adam on the support set.

    Set its params by `with_pretrained_body` from what `pretraining` learned. The rate is stored in
    `params.rule["descent"]`, so that one compiled function evaluates many rates. With steps=0 it is
    the nearest class mean of frozen features.

    Args:
        net: a Flax module with `embed` and `head`.
        ways: number of classes of a task.
        loss: what makes the loss of the network, such as `cross_entropy`.
        rate: step size of Adam, which has `eps_root=1e-8`.
        steps: number of steps.
        head_only: whether the body is frozen.
        inductive: whether statistics of norms come from the support set only.

    Source: as a baseline of meta-learning, Chen et al. 2019, arXiv 1904.04232.
    """
    fast = in_part("head") if head_only else None
    apply, params = as_function(net, fast=fast)
    of_net = loss_of(loss, apply)
    adam = learned(functools.partial(optax.adam, eps_root=1e-8), rate)
    adaptation = chain(
        head=prototypes(embed_of(apply), ways),
        descent=inner_loop(of_net, adam, steps=steps, differentiate=first_order()),
    )
    params = adaptation.init(params, jax.random.key(0))
    return Learner(apply, params, adaptation, query_loss(adaptation, of_net, inductive=inductive))


@checked
def with_pretrained_body(learner: Learner, pretrained: Params, *, head: str = "head") -> Learner:
    """The learner with pretrained weights in all parts of the net but the head.

    Args:
        learner: such as `fine_tuning(...)`; its head stays.
        pretrained: what `pretraining` learned, for the same net with another head.
        head: the part of the net that is not taken over.

    Raises:
        ValueError: a learner without this head, or pretrained weights of another net: the parts
            that differ.
    """
    weights = join_params(pretrained)
    own = join_params(learner.params)
    if head not in own:
        raise ValueError(f"The learner has no part {head!r}; its parts are {sorted(own)}.")
    body = {name: part for name, part in weights.items() if name != head}
    found = {name: shapes(part) for name, part in body.items()}
    expected = {name: shapes(part) for name, part in own.items() if name != head}
    differing = sorted(name for name in found | expected if found.get(name) != expected.get(name))
    if differing:
        of_pretrained = {name: found.get(name, "missing") for name in differing}
        of_learner = {name: expected.get(name, "missing") for name in differing}
        raise ValueError(
            f"These parts differ. The pretrained net has {of_pretrained}; the learner has "
            f"{of_learner}."
        )
    is_fast = set(weight_paths(learner.params.fast))
    merged = learner.params._replace(fast={**body, head: own[head]}, slow={})
    params = split_params(merged, lambda path: path in is_fast)
    return learner._replace(params=params)
