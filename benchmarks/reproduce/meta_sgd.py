"""Meta-SGD on Omniglot, 5-way.

Li et al. 2017, arXiv 1707.09835, table 2. There is no code of the authors. The paper has 1200
characters to train, 15 queries of each class and a net with max-pool; its 5-shot figure is of the
same 1-shot training. Its numbers of tasks in an outer step and of iterations could not be read, and
are those of MAML here. The paper draws the initial step sizes at random from 0.005 to 0.1; here all
start at one value.

METAJAX_DATA=folder python benchmarks/reproduce/meta_sgd.py --fraction 0.02
"""

import cards

from metajax import algorithms

PAPER = "Li et al. 2017"
FIVE_WAY = cards.OMNIGLOT | {
    "ways": 5,
    "shots": 1,
    "queries": 15,
    "initial_rate": 0.1,
    "inner_steps": 1,
    "tasks": 32,
    "iterations": 60_000,
}


def learner(protocol):
    """Meta-SGD, by the mean cross-entropy."""
    return algorithms.meta_sgd(
        cards.pooled_conv4(protocol),
        initial_rate=protocol["initial_rate"],
        inner_steps=protocol["inner_steps"],
        inductive=protocol["inductive"],
    )


COLUMNS = {
    "5-way 1-shot": cards.column(99.53, 0.26),
    "5-way 5-shot": cards.column(99.93, 0.09, shots=5),
}
ROWS = {"5-way": cards.Row(FIVE_WAY, learner, COLUMNS, tasks_at_once=2)}
parser = cards.make_parser(__doc__, ROWS)

if __name__ == "__main__":
    cards.main(parser.parse_args(), "meta_sgd", ROWS)
