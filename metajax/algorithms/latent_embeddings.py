"""Adaptation in a learned space of codes, from which the weights of the head are decoded."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from metajax._checked import checked
from metajax.algorithms.learners import MakeLoss, Net, as_features, loss_of, with_part
from metajax.inner import chain, decoded_head, inner_loop, latent_codes, learned
from metajax.losses import cross_entropy
from metajax.nets import MLP, functional, join_params
from metajax.types import Array, Count, Learner, Metrics, Params, PyTree, Size, Task


@checked
def leo(
    net: Net,
    ways: Size,
    width: Size,
    *,
    latent: Size = 64,
    loss: MakeLoss = cross_entropy,
    initial_rate: float = 1.0,
    inner_steps: Count = 5,
    divergence: float = 1e-3,
    encoder_penalty: float = 1e-9,
    seed: int = 0,
) -> Learner:
    """LEO: gradient descent on a code for each class, from which the head is decoded.

    The codes start at a draw from a distribution that is read from pairs of examples, so that an
    answer depends on the key. The task loss is L(query) + β KL(q(z) ‖ N(0, I)) + γ (z' - z)², the
    two penalties as means over all numbers of the codes, with the code z' after descent held
    constant.

    A net reads the mean m and the log-deviation u of each code, z = m + exp(u) ε. The decoder gives
    m and u of each weight of the head, w = m + softplus(u) ε, drawn anew in every step.

    The paper goes on with a few steps on the decoded weights, penalises weights by L2 and the
    correlation of rows of the decoder, has dropout, and reads features of a pretrained net; none of
    these is here. The code of the authors learns a step size for each number of a code, draws
    nothing in evaluation, lets the deviations start near 0, and has no biases in the relation net.
    Here one step size is learned.

    Args:
        net: a Flax module with `embed` and `head`, or any net whose outputs are features.
        ways: number of classes of a task.
        width: of the features.
        latent: length of a code.
        loss: what makes the loss of the network, such as `cross_entropy`.
        initial_rate: initial step size of the inner loop, which is learned.
        inner_steps: number of steps of gradient descent.
        divergence: β.
        encoder_penalty: γ.
        seed: of the encoder, the relation net and the decoder.

    Source: Rusu et al. 2019, arXiv 1807.05960; widths and penalties as in the authors' code,
    github.com/google-deepmind/leo.

    Checked against: the formulas in NumPy.
    """
    embed, params = as_features(net, "latent")
    rngs = nnx.Rngs(seed)
    nets = {
        "encode": nnx.Linear(width, latent, use_bias=False, rngs=rngs),
        "relate": MLP(2 * latent, (2 * latent, 2 * latent), 2 * latent, rngs=rngs),
        "decode": nnx.Linear(latent, 2 * width, use_bias=False, rngs=rngs),
    }
    applies = {}
    for name, part in nets.items():
        applies[name], part_params = functional(part)
        params = with_part(params, name, join_params(part_params))
    codes = latent_codes(embed, applies["encode"], applies["relate"], ways)
    apply = decoded_head(embed, applies["decode"])
    of_net = loss_of(loss, apply)
    rule = learned(_descent_of_codes, initial_rate)
    adaptation = chain(codes=codes, descent=inner_loop(of_net, rule, steps=inner_steps))
    names = ("code", "start", "mean", "log_deviation")
    written = {name: jnp.zeros((ways, latent)) for name in names} | {"bias": jnp.zeros(ways)}
    params = adaptation.init(params._replace(fast={"latent": written}), jax.random.key(0))

    @checked
    def task_loss(params: Params, task: Task, key: Array) -> tuple[Array, Metrics]:
        adapt_key, query_key = jax.random.split(key)
        adapted = adaptation.adapt(params, task.support, adapt_key)
        value, metrics = of_net(adapted, task.query, query_key)
        found = adapted.fast["latent"]
        mean, log_deviation = found["mean"], found["log_deviation"]
        of_codes = (jnp.exp(2 * log_deviation) + mean**2 - 1) / 2 - log_deviation
        encoder_error = (jax.lax.stop_gradient(found["code"]) - found["start"]) ** 2
        penalty = divergence * of_codes.mean() + encoder_penalty * encoder_error.mean()
        return value + penalty, metrics

    return Learner(apply, params, adaptation, task_loss)


def _descent_of_codes(rate: Array) -> optax.GradientTransformation:
    """Gradient descent of the codes only."""

    def label(fast: PyTree) -> PyTree:
        return {"latent": {name: "move" if name == "code" else "keep" for name in fast["latent"]}}

    return optax.multi_transform({"move": optax.sgd(rate), "keep": optax.set_to_zero()}, label)
