"""MAML and first-order MAML on Omniglot and on sinusoids, in the protocol of the authors' code.

Finn, Abbeel and Levine 2017, arXiv 1703.03400, tables 1 and 2; code github.com/cbfinn/maml at
a7f45f1. The figure of FOMAML is that of Nichol et al. 2018, arXiv 1803.02999, table 2.

What the paper does not say and its code does:

- A task has one query image of each class at one shot, in training and in the test.
- The step size of 0.4 (5-way) and 0.1 (20-way) multiplies a cross-entropy that is summed over the
  ways. On the mean over examples, as here, it is 2.0 in both.
- The paper trains on 1200 characters, the code on 1100 and keeps 100 for validation.
- Statistics of batch normalisation are always those of the batch: support and query images are
  normalised by themselves, and the queries of a task see each other (transductive).
- 5-way takes one inner step in training and three in the test.
- Sinusoids: both test columns come from one training with 10 shots. Its inner step size is 0.01 in
  the paper, and 0.001 in the code, whose command does not set it: a row each. The code takes as many
  queries as shots in the test, and here there are 50. Errors at 10 shots are drawn, not printed.

What differs here: each quarter turn of a character is a class of its own, where the code draws one
turn for each class of a task, so that here a character may be in a task twice; norms have a scale
beside the shift, and the inner loop changes both, where the code leaves its shifts as they are.

METAJAX_DATA=folder python benchmarks/reproduce/maml.py
METAJAX_DATA=folder python benchmarks/reproduce/maml.py --rows maml-5-way --fraction 0.05
python benchmarks/reproduce/maml.py --rows sinusoids-0.01 --seeds 0 1 2
"""

import cards
import optax
from flax import nnx

import metajax as mj
from metajax import algorithms

PAPER = "Finn et al. 2017"
FIVE_WAY = {
    "split_seed": 0,
    "rotations": ["train", "validation", "test"],
    "net": "Conv4: stride 2, spatial mean",
    "width": 64,
    "loss": "cross-entropy, mean over examples",
    "ways": 5,
    "shots": 1,
    "queries": 1,
    "algorithm": "maml",
    "inner_rate": 2.0,
    "inner_steps": 1,
    "inductive": False,
    "outer": "Adam",
    "outer_rate": 1e-3,
    "tasks": 32,
    "iterations": 60_000,
}
FIRST_ORDER = FIVE_WAY | {"algorithm": "fomaml"}
TWENTY_WAY = FIVE_WAY | {"ways": 20, "inner_steps": 5, "tasks": 16}
SINUSOIDS = {
    "net": "two hidden layers, ReLU",
    "width": 40,
    "loss": "squared error, mean over examples",
    "ways": None,
    "shots": 10,
    "queries": 10,
    "algorithm": "maml",
    "inner_rate": 0.01,
    "inner_steps": 1,
    "outer": "Adam",
    "outer_rate": 1e-3,
    "tasks": 25,
    "iterations": 70_000,
}


def learner(protocol, column):
    """The learner of the training, or of a column with its own number of inner steps."""
    net = mj.nets.Conv4(protocol["ways"], width=protocol["width"], rngs=nnx.Rngs(protocol["seed"]))
    return getattr(algorithms, protocol["algorithm"])(
        net,
        inner_rate=protocol["inner_rate"],
        inner_steps=protocol["inner_steps"] if column is None else column.inner_steps,
    )


def regressor(protocol, column):
    """The learner of sinusoids, in the test with the inner steps of the column."""
    hidden = (protocol["width"], protocol["width"])
    net = mj.nets.MLP(1, hidden, 1, rngs=nnx.Rngs(protocol["seed"]))
    return algorithms.maml(
        net,
        loss=mj.losses.squared_error,
        inner_rate=protocol["inner_rate"],
        inner_steps=protocol["inner_steps"] if column is None else column.inner_steps,
    )


def adam(protocol, steps):
    """The outer optimizer; its step size stays."""
    del steps
    return optax.adam(protocol["outer_rate"])


def row(protocol, columns):
    """A row of this card."""
    return cards.Row(
        protocol, cards.omniglot, mj.data.episodes, learner, adam, columns, tasks_at_once=4
    )


PRINTED = {(5, 1): 0.67, (5, 5): 0.38, (5, 10): 0.35}
"""{(shots, inner steps): squared error}, of table 2."""


def sinusoids(protocol):
    """A row of sinusoids: 5 and 10 shots after 0, 1, 5 and 10 inner steps."""
    columns = {}
    for shots in (5, 10):
        for steps in (0, 1, 5, 10):
            columns[f"{shots} shots, {steps} steps"] = cards.Column(
                PRINTED.get((shots, steps)), shots=shots, queries=50, tests=600, inner_steps=steps
            )
    return cards.Row(
        protocol,
        cards.sinusoids,
        cards.draw_sinusoids,
        regressor,
        adam,
        columns,
        metric="loss",
        fuse=100,
    )


ROWS = {
    "sinusoids-0.01": sinusoids(SINUSOIDS),
    "sinusoids-0.001": sinusoids(SINUSOIDS | {"inner_rate": 0.001}),
    "maml-5-way": row(
        FIVE_WAY,
        {"5-way 1-shot": cards.Column(98.7, 0.4, ways=5, shots=1, queries=1, inner_steps=3)},
    ),
    "fomaml-5-way": row(
        FIRST_ORDER,
        {"5-way 1-shot": cards.Column(98.3, 0.5, ways=5, shots=1, queries=1, inner_steps=3)},
    ),
    "maml-20-way": row(
        TWENTY_WAY,
        {"20-way 1-shot": cards.Column(95.8, 0.3, ways=20, shots=1, queries=1, inner_steps=5)},
    ),
}
parser = cards.make_parser(__doc__, ROWS)

if __name__ == "__main__":
    cards.main(parser.parse_args(), "maml", ROWS)
