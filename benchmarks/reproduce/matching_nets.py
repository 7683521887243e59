"""Matching networks on Omniglot, by cosine and without full-context embeddings.

Vinyals et al. 2016, arXiv 1606.04080, table 1, with 1200 characters to train and 423 to test. There
is no code of the authors, and the paper does not state the ways of its training, its queries, its
step size or its number of iterations: those below are ours.

An independent rerun, github.com/oscarknagg/few-shot, reports 92.0 (5-way) and 75.6 (20-way) by the
cosine, and 98.3 and 92.8 by the Euclidean distance. A cosine is between -1 and 1, so without a
temperature the softmax over 20 classes cannot go above 0.28, and the loss moves slowly.

METAJAX_DATA=folder python benchmarks/reproduce/matching_nets.py
METAJAX_DATA=folder python benchmarks/reproduce/matching_nets.py --fraction 0.05
"""

import cards
import optax
from flax import nnx

import metajax as mj
from metajax import algorithms

PAPER = "Vinyals et al. 2016"
ONE_SHOT = {
    "split_seed": 0,
    "rotations": ["train", "validation", "test"],
    "net": "Conv4: max-pool, flattened",
    "width": 64,
    "loss": "cross-entropy, mean over queries",
    "distance": "cosine, no temperature, no full context",
    "ways": 20,
    "shots": 1,
    "queries": 5,
    "inductive": False,
    "outer": "Adam, cosine decay to 0",
    "outer_rate": 1e-3,
    "tasks": 3,
    "iterations": 12_000,
}


def learner(protocol, column):
    """The learner of the training, or of a column with its own ways and statistics."""
    net = mj.nets.Conv4(1, width=protocol["width"], pool=True, rngs=nnx.Rngs(protocol["seed"]))
    ways = protocol["ways"] if column is None else column.ways
    inductive = protocol["inductive"] if column is None else column.inductive
    return algorithms.matching_nets(net, ways, inductive=inductive)


def decayed(protocol, steps):
    """Adam whose step size falls to 0."""
    return optax.adam(optax.cosine_decay_schedule(protocol["outer_rate"], steps))


COLUMNS = {
    "5-way 1-shot": cards.Column(98.1, ways=5, shots=1, queries=5, tests=1000),
    "20-way 1-shot": cards.Column(93.8, ways=20, shots=1, queries=5, tests=1000),
    "5-way 5-shot": cards.Column(98.9, ways=5, shots=5, queries=5, tests=1000),
    "20-way 5-shot": cards.Column(98.5, ways=20, shots=5, queries=5, tests=1000),
}
ROWS = {
    "1-shot": cards.Row(
        ONE_SHOT, cards.omniglot, mj.data.episodes, learner, decayed, COLUMNS, tasks_at_once=1
    )
}
parser = cards.make_parser(__doc__, ROWS)

if __name__ == "__main__":
    cards.main(parser.parse_args(), "matching_nets", ROWS)
