"""Reptile on Omniglot, 5-way.

Nichol, Achiam and Schulman 2018, arXiv 1803.02999, table 2; code
github.com/openai/supervised-reptile at 5d5589c, whose README has the settings of the appendix. An
earlier README had others.

What the paper does not say and its code does:

- The inner Adam keeps its second moments from task to task and into the test. Here it starts anew
  in every task.
- A test task has one query image of each class. Transductive: the queries are one batch of their
  norms. Inductive: each query is a batch with the support set; here the statistics are those of the
  support set alone.
- Quarter turns are further classes in training only. There is no validation: 1200 characters to
  train; here 1100, and 100 draw the curve.
- Inner batches walk through the shuffled examples; here each is drawn by itself.

METAJAX_DATA=folder python benchmarks/reproduce/reptile.py
METAJAX_DATA=folder python benchmarks/reproduce/reptile.py --fraction 0.05
"""

import cards
import optax
from flax import nnx

import metajax as mj
from metajax import algorithms

PAPER = "Nichol et al. 2018"
FIVE_WAY = {
    "split_seed": 0,
    "rotations": ["train"],
    "net": "Conv4: stride 2, flattened",
    "width": 64,
    "loss": "cross-entropy, mean over examples",
    "ways": 5,
    "shots": 10,
    "queries": 1,
    "inner": "Adam without momentum",
    "inner_rate": 1e-3,
    "inner_steps": 5,
    "inner_batch": 10,
    "test_batch": 5,
    "inductive": False,
    "outer": "gradient descent, step size from 1 to 0 in a line",
    "outer_rate": 1.0,
    "tasks": 5,
    "iterations": 100_000,
}


class FlatConv4(mj.nets.Conv4):
    """Conv4 with stride 2 whose features are all places of the last block, not their mean."""

    def __init__(self, outputs, *, width, rngs):
        super().__init__(outputs, width=width, rngs=rngs)
        self.head = nnx.Linear(4 * width, outputs, rngs=rngs)

    def embed(self, x, reference=None):
        """[n, 28, 28, 1] -> [n, 2 * 2 * width]."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = nnx.relu(norm(convolution(x), reference))
        return x.reshape(len(x), -1)


def learner(protocol, column):
    """The learner of the training, or of a column: with more steps, and its own statistics."""
    net = FlatConv4(protocol["ways"], width=protocol["width"], rngs=nnx.Rngs(protocol["seed"]))
    batch = protocol["inner_batch" if column is None else "test_batch"]
    made = algorithms.reptile(
        net,
        inner_rate=protocol["inner_rate"],
        inner_steps=protocol["inner_steps"] if column is None else column.inner_steps,
        batch=batch,
    )
    if column is None:
        return made
    loss = mj.losses.cross_entropy(made.apply)
    tested = mj.query_loss(made.adaptation, loss, inductive=column.inductive)
    return made._replace(task_loss=tested)


def descent(protocol, steps):
    """Gradient descent whose step size falls to 0 in the last step."""
    return optax.sgd(optax.linear_schedule(protocol["outer_rate"], 0.0, steps))


def column(shots, published, interval, inductive):
    """A column: 50 inner steps and one query of each class."""
    return cards.Column(
        published,
        interval,
        ways=5,
        shots=shots,
        queries=1,
        tests=2000,
        inner_steps=50,
        inductive=inductive,
    )


COLUMNS = {
    "5-way 1-shot": column(1, 97.68, 0.04, inductive=False),
    "5-way 1-shot, inductive": column(1, 95.39, 0.09, inductive=True),
    "5-way 5-shot": column(5, 99.48, 0.06, inductive=False),
    "5-way 5-shot, inductive": column(5, 98.90, 0.10, inductive=True),
}
ROWS = {
    "5-way": cards.Row(
        FIVE_WAY, cards.omniglot, mj.data.episodes, learner, descent, COLUMNS, fuse=20
    )
}
parser = cards.make_parser(__doc__, ROWS)

if __name__ == "__main__":
    cards.main(parser.parse_args(), "reptile", ROWS)
