"""CAVIA and MAML on sinusoids, in the protocol of CAVIA's paper.

Zintgraf et al. 2019, arXiv 1810.03642, table 1: 10 shots, one inner step; code
github.com/lmzintgraf/cavia. Ours are tested after other numbers of steps, too.

What the paper does not say and its code does:

- MAML's inner step size is 0.01 in the code's table of defaults and 0.1 in the command of its
  README: a row each.
- The code keeps the model of CAVIA that is best in validation. That of MAML is the last one: what
  it keeps there is changed by later steps. Here both are the last one.
- It clips the meta-gradient of each task of CAVIA at ±10. Here nothing is clipped.
- Weights and biases are uniform within ±1/√n. For CAVIA, n is the number of inputs of the layer,
  and for MAML that of its outputs.
- A test has 100 tasks with 100 queries each; here 600 with 50.

python benchmarks/reproduce/cavia.py --seeds 0 1 2
"""

import functools

import cards
import jax
from flax import nnx

import metajax as mj
from metajax import algorithms

PAPER = "Zintgraf et al. 2019"
CAVIA = {
    "width": 40,
    "shots": 10,
    "queries": 10,
    "context": 5,
    "initial_width": "inputs",
    "inner_rate": 1.0,
    "inner_steps": 1,
    "outer_rate": 1e-3,
    "decay": {"factor": 0.9, "every": 5_000},
    "tasks": 25,
    "iterations": 50_000,
}
MAML = CAVIA | {"context": 0, "initial_width": "outputs", "inner_rate": 0.01}


def learner(protocol):
    """CAVIA, or MAML where there is no context: two hidden layers, the mean squared error."""
    context, hidden = protocol["context"], (protocol["width"], protocol["width"])
    net = mj.nets.MLP(1 + context, hidden, 1, rngs=nnx.Rngs(protocol["seed"]))
    of_inputs = protocol["initial_width"] == "inputs"

    def uniform(key, inputs, outputs):
        kernel_key, bias_key = jax.random.split(key)
        most = (inputs if of_inputs else outputs) ** -0.5
        kernel = jax.random.uniform(kernel_key, (inputs, outputs), minval=-most, maxval=most)
        return kernel, jax.random.uniform(bias_key, (outputs,), minval=-most, maxval=most)

    net = cards.initialised(net, protocol["seed"], uniform)
    descent = {
        "loss": mj.losses.squared_error,
        "inner_rate": protocol["inner_rate"],
        "inner_steps": protocol["inner_steps"],
    }
    if context:
        return algorithms.cavia(net, context=context, **descent)
    return algorithms.maml(net, **descent)


def row(protocol, published, reason=""):
    """A row of this card: 10 shots after 0, 1, 5 and 10 inner steps."""
    columns = {}
    for steps in (0, 1, 5, 10):
        figure = (published, 0.02) if steps == 1 else (None, None)
        columns[f"10 shots, inner steps: {steps}"] = cards.column(
            *figure, unverified=True, reason=reason, queries=50, inner_steps=steps
        )
    return cards.Row(
        protocol,
        learner,
        columns,
        parts=functools.partial(cards.drawn, "sinusoids"),
        draw=lambda protocol: mj.data.sinusoids(protocol["shots"], protocol["queries"]),
        metric="loss",
        fuse=100,
    )


ROWS = {
    "cavia": row(CAVIA, 0.19),
    "maml-0.01": row(MAML, 0.33),
    "maml-0.1": row(
        MAML | {"inner_rate": 0.1}, 0.33, "the step size of the README is too large here"
    ),
}
parser = cards.make_parser(__doc__, ROWS)

if __name__ == "__main__":
    cards.main(parser.parse_args(), "cavia", ROWS)
