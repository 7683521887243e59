"""Meta-SGD on Omniglot, 5-way.

Li et al. 2017, arXiv 1707.09835, table 2. There is no code of the authors. The paper has 15 queries
of each class and a net with max-pool; its 5-shot figure is of the same 1-shot training. Its number
of tasks in an outer step and of iterations could not be read; they are those of MAML. The paper
draws the initial step sizes at random from 0.005 to 0.1; here all start at one value.

METAJAX_DATA=folder python benchmarks/reproduce/meta_sgd.py --fraction 0.02
"""

import cards
import optax
from flax import nnx

import metajax as mj
from metajax import algorithms

PAPER = "Li et al. 2017"
FIVE_WAY = {
    "split_seed": 0,
    "rotations": ["train", "validation", "test"],
    "net": "Conv4: max-pool, flattened",
    "width": 64,
    "loss": "cross-entropy, mean over examples",
    "ways": 5,
    "shots": 1,
    "queries": 15,
    "initial_rate": 0.1,
    "inner_steps": 1,
    "inductive": False,
    "outer": "Adam",
    "outer_rate": 1e-3,
    "tasks": 32,
    "iterations": 60_000,
}


def learner(protocol, column):
    """The learner, which is the same in training and in the test."""
    del column
    net = mj.nets.Conv4(
        protocol["ways"], width=protocol["width"], pool=True, rngs=nnx.Rngs(protocol["seed"])
    )
    return algorithms.meta_sgd(
        net, initial_rate=protocol["initial_rate"], inner_steps=protocol["inner_steps"]
    )


def adam(protocol, steps):
    """The outer optimizer; its step size stays."""
    del steps
    return optax.adam(protocol["outer_rate"])


COLUMNS = {
    "5-way 1-shot": cards.Column(99.53, 0.26, ways=5, shots=1, inner_steps=1),
    "5-way 5-shot": cards.Column(99.93, 0.09, ways=5, shots=5, inner_steps=1),
}
ROWS = {
    "5-way": cards.Row(
        FIVE_WAY, cards.omniglot, mj.data.episodes, learner, adam, COLUMNS, tasks_at_once=2
    )
}
parser = cards.make_parser(__doc__, ROWS)

if __name__ == "__main__":
    cards.main(parser.parse_args(), "meta_sgd", ROWS)
