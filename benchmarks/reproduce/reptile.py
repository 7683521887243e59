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
  train and 423 to test. Here 1100 are trained on, and 100 validate along the way.
- Inner batches walk through the shuffled examples; here each is drawn by itself.
- A test has 10 000 tasks; here 2 000.

METAJAX_DATA=folder python benchmarks/reproduce/reptile.py
METAJAX_DATA=folder python benchmarks/reproduce/reptile.py --fraction 0.05
"""

import cards
import optax

import metajax as mj
from metajax import algorithms

PAPER = "Nichol et al. 2018"
FIVE_WAY = {
    "split_seed": 0,
    "rotations": ["train"],
    "width": 64,
    "ways": 5,
    "shots": 10,
    "queries": 1,
    "inner_rate": 1e-3,
    "inner_steps": 5,
    "inner_batch": 10,
    "inductive": False,
    "outer_rate": 1.0,
    "tasks": 5,
    "iterations": 100_000,
}


def learner(protocol):
    """Reptile, whose task loss is that of its step in training, and of the queries in the test."""
    made = algorithms.reptile(
        cards.flat_conv4(protocol),
        inner_rate=protocol["inner_rate"],
        inner_steps=protocol["inner_steps"],
        batch=protocol["inner_batch"],
    )
    if not protocol["inductive"]:
        return made
    loss = mj.losses.cross_entropy(made.apply)
    return made._replace(task_loss=mj.query_loss(made.adaptation, loss, inductive=True))


def descent(protocol, steps):
    """Gradient descent whose step size falls to 0 in a line."""
    return optax.sgd(optax.linear_schedule(protocol["outer_rate"], 0.0, steps))


def column(shots, inductive, published, interval):
    """A column: 50 inner steps of 5 images each."""
    return cards.column(
        published,
        interval,
        tests=2000,
        shots=shots,
        inner_steps=50,
        inner_batch=5,
        inductive=inductive,
    )


COLUMNS = {
    "5-way 1-shot": column(1, False, 97.68, 0.04),
    "5-way 1-shot, inductive": column(1, True, 95.39, 0.09),
    "5-way 5-shot": column(5, False, 99.48, 0.06),
    "5-way 5-shot, inductive": column(5, True, 98.90, 0.10),
}
ROWS = {"5-way": cards.Row(FIVE_WAY, learner, COLUMNS, descent, fuse=20)}
parser = cards.make_parser(__doc__, ROWS)

if __name__ == "__main__":
    cards.main(parser.parse_args(), "reptile", ROWS)
