"""Matching networks on Omniglot, by cosine and without full-context embeddings.

Vinyals et al. 2016, arXiv 1606.04080, table 1, with 1200 characters to train and 423 to test; here
1100, 100 to validate, and 423. There is no code of the authors, and the paper does not state the
ways of its training, its queries, its step size or its number of iterations: those below are ours.
One training is tested on all four columns.

An independent rerun, github.com/oscarknagg/few-shot, reports 92.0 (5-way) and 75.6 (20-way) by the
cosine, and 98.3 and 92.8 by the Euclidean distance. A cosine is between -1 and 1, so without a
temperature the softmax over 20 classes cannot go above 0.28, and the loss moves slowly.

METAJAX_DATA=folder python benchmarks/reproduce/matching_nets.py
METAJAX_DATA=folder python benchmarks/reproduce/matching_nets.py --fraction 0.05
"""

import cards

from metajax import algorithms

PAPER = "Vinyals et al. 2016"
ONE_SHOT = cards.OMNIGLOT | {
    "ways": 20,
    "shots": 1,
    "queries": 5,
    "decay": {"cosine_to": 1e-5},
    "tasks": 3,
    "iterations": 12_000,
}


def learner(protocol):
    """Matching networks without full context."""
    net = cards.pooled_conv4(protocol | {"ways": 1})  # the support set takes the head's place
    return algorithms.matching_nets(net, protocol["ways"], inductive=protocol["inductive"])


COLUMNS = {
    "5-way 1-shot": cards.column(98.1, tests=1000, ways=5),
    "20-way 1-shot": cards.column(93.8, tests=1000),
    "5-way 5-shot": cards.column(98.9, tests=1000, ways=5, shots=5),
    "20-way 5-shot": cards.column(98.5, tests=1000, shots=5),
}
ROWS = {"1-shot": cards.Row(ONE_SHOT, learner, COLUMNS, tasks_at_once=1)}
parser = cards.make_parser(__doc__, ROWS)

if __name__ == "__main__":
    cards.main(parser.parse_args(), "matching_nets", ROWS)
