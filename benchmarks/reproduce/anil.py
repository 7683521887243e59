"""ANIL on Omniglot, 20-way.

Raghu et al. 2020, arXiv 1909.09157, table 2, where MAML has 93.7 and 96.4. No code of the authors
is public, and the settings of the appendix could not be read: steps, step size and iterations are
those of MAML's own 20-way (maml.py), with one query of each class.

METAJAX_DATA=folder python benchmarks/reproduce/anil.py
METAJAX_DATA=folder python benchmarks/reproduce/anil.py --rows 1-shot --fraction 0.05
"""

import cards
import optax
from flax import nnx

import metajax as mj
from metajax import algorithms

PAPER = "Raghu et al. 2020"
ONE_SHOT = {
    "split_seed": 0,
    "rotations": ["train", "validation", "test"],
    "net": "Conv4: stride 2, spatial mean",
    "width": 64,
    "loss": "cross-entropy, mean over examples",
    "ways": 20,
    "shots": 1,
    "queries": 1,
    "inner_rate": 2.0,
    "inner_steps": 5,
    "inductive": False,
    "outer": "Adam",
    "outer_rate": 1e-3,
    "tasks": 16,
    "iterations": 30_000,
}


def learner(protocol, column):
    """The learner, which is the same in training and in the test."""
    del column
    net = mj.nets.Conv4(protocol["ways"], width=protocol["width"], rngs=nnx.Rngs(protocol["seed"]))
    return algorithms.anil(
        net, inner_rate=protocol["inner_rate"], inner_steps=protocol["inner_steps"]
    )


def adam(protocol, steps):
    """The outer optimizer; its step size stays."""
    del steps
    return optax.adam(protocol["outer_rate"])


COLUMNS = {
    "20-way 1-shot": cards.Column(96.2, 0.5, ways=20, shots=1, queries=1, inner_steps=5),
    "20-way 5-shot": cards.Column(98.0, 0.3, ways=20, shots=5, queries=5, inner_steps=5),
}
ROWS = {
    "1-shot": cards.Row(
        ONE_SHOT,
        cards.omniglot,
        mj.data.episodes,
        learner,
        adam,
        {"20-way 1-shot": COLUMNS["20-way 1-shot"]},
        tasks_at_once=4,
    ),
    "5-shot": cards.Row(
        ONE_SHOT | {"shots": 5, "queries": 5},
        cards.omniglot,
        mj.data.episodes,
        learner,
        adam,
        {"20-way 5-shot": COLUMNS["20-way 5-shot"]},
        tasks_at_once=1,
    ),
}
parser = cards.make_parser(__doc__, ROWS)

if __name__ == "__main__":
    cards.main(parser.parse_args(), "anil", ROWS)
