"""ANIL on Omniglot, 20-way.

Raghu et al. 2020, arXiv 1909.09157, table 2, where MAML has 93.7 and 96.4. No code of the authors
is public, and the settings of the appendix could not be read. Net, inner steps, step sizes, tasks
and as many queries as shots are those of MAML's own 20-way (maml.py). The 30 000 iterations are
ours.

METAJAX_DATA=folder python benchmarks/reproduce/anil.py
METAJAX_DATA=folder python benchmarks/reproduce/anil.py --rows 1-shot --fraction 0.05
"""

import functools

import cards
import optax

import metajax as mj
from metajax import algorithms

PAPER = "Raghu et al. 2020"
ONE_SHOT = cards.OMNIGLOT | {
    "ways": 20,
    "shots": 1,
    "queries": 1,
    "inner_rate": 2.0,
    "inner_steps": 5,
    "tasks": 16,
    "iterations": 30_000,
}
FIVE_SHOT = ONE_SHOT | {"shots": 5, "queries": 5}


def learner(protocol):
    """ANIL, by the mean cross-entropy. The features of a task are computed once."""
    rate, steps = protocol["inner_rate"], protocol["inner_steps"]
    made = algorithms.anil(cards.strided_conv4(protocol), inner_rate=rate, inner_steps=steps)
    embed, head = (functools.partial(made.apply, method=name) for name in ("embed", "head"))
    descent = mj.inner_loop(mj.losses.cross_entropy(head), optax.sgd(rate), steps=steps)
    adaptation = mj.inner.on_features(embed, descent)
    loss = mj.losses.cross_entropy(made.apply)
    task_loss = mj.query_loss(adaptation, loss, inductive=protocol["inductive"])
    return made._replace(adaptation=adaptation, task_loss=task_loss)


def row(protocol, title, published, interval):
    """A training, tested as it was trained."""
    columns = {title: cards.column(published, interval)}
    return cards.Row(protocol, learner, columns, tasks_at_once=1)


ROWS = {
    "1-shot": row(ONE_SHOT, "20-way 1-shot", 96.2, 0.5),
    "5-shot": row(FIVE_SHOT, "20-way 5-shot", 98.0, 0.3),
}
parser = cards.make_parser(__doc__, ROWS)

if __name__ == "__main__":
    cards.main(parser.parse_args(), "anil", ROWS)
