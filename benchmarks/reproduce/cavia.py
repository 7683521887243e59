"""CAVIA and MAML on sinusoids, in the protocol of CAVIA's paper.

Zintgraf et al. 2019, arXiv 1810.03642, table 1: 10 shots, one inner step; code
github.com/lmzintgraf/cavia.

What the paper does not say and its code does:

- MAML's inner step size is 0.01 in the code's table of defaults and 0.1 in the command of its
  README: a row each.
- Of the checks on validation tasks, the code keeps the best model of CAVIA; for MAML it keeps a
  reference that later steps overwrite, so the last one. Here it is the last one of both.
- It clips the meta-gradient of each task of CAVIA at ±10. Here nothing is clipped.
- A test has 100 tasks with 100 queries each; here 600 with 50.
- The step size of Adam falls by 0.9 every 5 000 iterations.

python benchmarks/reproduce/cavia.py --seeds 0 1 2
"""

import cards
import optax
from flax import nnx

import metajax as mj
from metajax import algorithms

PAPER = "Zintgraf et al. 2019"
CAVIA = {
    "net": "two hidden layers, ReLU",
    "width": 40,
    "loss": "squared error, mean over examples",
    "ways": None,
    "shots": 10,
    "queries": 10,
    "context": 5,
    "inner_rate": 1.0,
    "inner_steps": 1,
    "outer": "Adam, times 0.9 every 5 000 iterations",
    "outer_rate": 1e-3,
    "tasks": 25,
    "iterations": 50_000,
}
MAML = CAVIA | {"context": 0, "inner_rate": 0.01}


def learner(protocol, column):
    """CAVIA, or MAML where there is no context; in the test with the steps of the column."""
    context, hidden = protocol["context"], (protocol["width"], protocol["width"])
    net = mj.nets.MLP(1 + context, hidden, 1, rngs=nnx.Rngs(protocol["seed"]))
    descent = {
        "loss": mj.losses.squared_error,
        "inner_rate": protocol["inner_rate"],
        "inner_steps": protocol["inner_steps"] if column is None else column.inner_steps,
    }
    if context:
        return algorithms.cavia(net, context=context, **descent)
    return algorithms.maml(net, **descent)


def falling(protocol, steps):
    """Adam with the step size of the paper; of a fraction of the steps, as low in the end."""
    every = 5_000 * steps / protocol["iterations"]
    return optax.adam(
        optax.exponential_decay(protocol["outer_rate"], max(1, every), 0.9, staircase=True)
    )


def row(protocol, published):
    """A row of this card: 10 shots after 0, 1, 5 and 10 inner steps."""
    columns = {}
    for steps in (0, 1, 5, 10):
        figure = published if steps == 1 else (None, None)
        columns[f"10 shots, {steps} steps"] = cards.Column(
            *figure, shots=10, queries=50, tests=600, inner_steps=steps
        )
    return cards.Row(
        protocol,
        cards.sinusoids,
        cards.draw_sinusoids,
        learner,
        falling,
        columns,
        metric="loss",
        fuse=100,
    )


ROWS = {
    "cavia": row(CAVIA, (0.19, 0.02)),
    "maml-0.01": row(MAML, (0.33, 0.02)),
    "maml-0.1": row(MAML | {"inner_rate": 0.1}, (0.33, 0.02)),
}
parser = cards.make_parser(__doc__, ROWS)

if __name__ == "__main__":
    cards.main(parser.parse_args(), "cavia", ROWS)
