"""MMAML and MAML on five families of functions.

Vuorio et al. 2019, arXiv 1910.13616, table 1, five modes; code
github.com/vuoristo/MMAML-Regression. The figures were not read in the paper.

What the paper does not say and its code does:

- A task has five points to learn from and five to answer. Both have noise of 0.3, in the test too,
  so that no error is below 0.09.
- The outer gradient is clipped to a norm of 2. The weights of the net start at normal values of
  0.01, and its biases at zero.
- MAML has 20 further inputs that are learned. MMAML reads the points by a bidirectional LSTM in the
  order in which they were drawn. Here MAML has none, and MMAML reads them as a set.
- A task of its test has 5 queries; here 50.

python benchmarks/reproduce/mmaml.py
"""

import functools

import cards
import optax
from flax import nnx

import metajax as mj
from metajax import algorithms

PAPER = "Vuorio et al. 2019"
MMAML = {
    "width": 100,
    "initial_spread": 0.01,
    "reader_width": 40,
    "noise": 0.3,
    "shots": 5,
    "queries": 5,
    "inner_rate": 1e-3,
    "inner_steps": 5,
    "outer_rate": 1e-3,
    "outer_clip": 2.0,
    "tasks": 125,
    "iterations": 70_000,
}


def draw(protocol):
    """The sampler of all five families."""
    sizes = (protocol["shots"], protocol["queries"])
    return mj.data.task_modes(mj.data.regressions(*sizes, noise=protocol["noise"]))


def learner(protocol):
    """MMAML, or MAML where there is no reader: three hidden layers, the mean squared error."""
    rngs = nnx.Rngs(protocol["seed"])
    spread = nnx.initializers.normal(protocol["initial_spread"])
    small = lambda key, inputs, outputs: (spread(key, (inputs, outputs)), 0)
    net = mj.nets.MLP(1, 3 * (protocol["width"],), 1, rngs=rngs)
    net = cards.initialised(net, protocol["seed"], small)
    rate, steps = protocol["inner_rate"], protocol["inner_steps"]
    width = protocol["reader_width"]
    if not width:
        return algorithms.maml(
            net, loss=mj.losses.squared_error, inner_rate=rate, inner_steps=steps
        )
    reader = lambda outputs: mj.nets.DeepSets(2, outputs, width=width, rngs=rngs)
    return algorithms.mmaml(net, reader, inner_rate=rate, inner_steps=steps)


def clipped(protocol, steps):
    """Adam on the gradient, whose norm is clipped."""
    del steps
    clip = optax.clip_by_global_norm(protocol["outer_clip"])
    return optax.chain(clip, optax.adam(protocol["outer_rate"]))


def row(protocol, published):
    """A row of this card."""
    return cards.Row(
        protocol,
        learner,
        {"5 shots": cards.column(published, unverified=True, queries=50)},
        clipped,
        parts=functools.partial(cards.drawn, "five-families"),
        draw=draw,
        metric="loss",
        fuse=50,
    )


ROWS = {"maml": row(MMAML | {"reader_width": 0}, 1.668), "mmaml": row(MMAML, 0.868)}
parser = cards.make_parser(__doc__, ROWS)

if __name__ == "__main__":
    cards.main(parser.parse_args(), "mmaml", ROWS)
