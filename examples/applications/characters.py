"""Chinese characters never seen, recognised by their composition: zero-shot with a knowledge graph.

Reads `hanzi.npz` from the folder that METAJAX_DATA names. The classes are characters, with one
picture each. Of those whose composition is known, 80 % are for training and 20 % are the test, in
tasks of 20 ways without a single shot. No setting was chosen on them. A graph network over edges
from characters to their parts writes the head: 江 consists of 氵 and 工, which are parts of other
characters too. The controls are:

- compositions of other characters of the task ("permuted"; accuracy is then worse than chance,
  because each picture's own composition belongs to another class) or of another task ("random");
- a graph without the edges to radicals, which are 7 000 of the 19 000 edges.

    METAJAX_DATA=... python examples/applications/characters.py --out .
"""

import pathlib
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import metajax as mj

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # the folder of common.py
import common


class Config(NamedTuple):
    """The settings of a run."""

    ways: int = 20
    training_ways: int = 100
    training_share: float = 0.8  # of the characters
    width: int = 64  # of the features that picture and graph share
    channels: int = 48  # of the net for pictures
    hidden: int = 128  # units of the graph network's hidden layer
    outer_rate: float = 2e-3
    fuse: int = 20  # outer steps in one compiled call
    steps: int = 700  # steps of training for each graph
    tasks: int = 1000  # of the test, or as many as there are


TINY = Config(steps=2, training_ways=20, width=4, channels=4, hidden=4, fuse=1, tasks=2)


def task_of(pictures, chosen):
    """A task without shots: pictures to name. `info` holds the nodes of its classes."""
    x = pictures[chosen] / 255.0
    y = jnp.arange(len(chosen), dtype=jnp.int32)
    no_shots = jnp.zeros(len(chosen))
    support = mj.Batch(jnp.zeros_like(x), y, weight=no_shots, info=chosen)
    return mj.Task(support, mj.Batch(x, y, weight=jnp.ones(len(chosen))))


def main(config, out):
    """Trains on both graphs, and tests with the right compositions and with wrong ones."""
    key = jax.random.key(0)
    started = time.perf_counter()

    # Data: one picture of each character, and edges from characters to their parts.
    table = mj.data.hanzi_characters()
    pictures = jnp.asarray(
        mj.data.hanzi_pictures()
    )  # uint8[characters, 32, 32, 1], as in the table
    nodes, whole_graph = mj.data.composition_graph(table["character"], table["decomposition"])
    _, without_radicals = mj.data.composition_graph(
        table["character"], table["decomposition"], without=table["radical"]
    )
    composed = np.unique(whole_graph[:, 0])  # the characters whose composition is known
    composed = np.random.default_rng(0).permutation(composed)
    train, test = np.split(composed, [int(config.training_share * len(composed))])
    test = test[: config.tasks * config.ways]

    def sample(pictures, key):
        """A task of training characters."""
        chosen = jax.random.choice(key, jnp.asarray(train), (config.training_ways,), replace=False)
        return task_of(pictures, chosen)

    class Nets(NamedTuple):
        """A net for pictures and a net for the graph, whose features of a character agree.

        Attributes:
            params: what was learned.
            embed: pictures -> features.
            describe: nodes -> features of the classes.
        """

        params: mj.Params
        embed: Callable
        describe: Callable

        def adaptation(self, ways):
            """Writes the head from the graph, for there are no shots."""
            return mj.modalities.cross_modal_prototypes(self.embed, self.describe, ways)

        def task_loss(self, ways):
            loss = mj.losses.cross_entropy(mj.linear_head(self.embed))
            return mj.query_loss(self.adaptation(ways), loss)

    def make(edges):
        """The nets of this graph, before training."""
        rngs = nnx.Rngs(0)
        embed_picture, picture = mj.nets.functional(
            mj.nets.Conv4(config.width, width=config.channels, rngs=rngs)
        )
        embed_graph, graph = mj.nets.functional(
            mj.nets.GCN(
                edges, config.width, (config.hidden,), config.width, nodes=len(nodes), rngs=rngs
            )
        )

        def of_picture(params, x):
            return embed_picture(mj.Params(params.slow["picture"], {}), x)

        def describe(params, chosen, key=None):
            # Of a test character nothing is known but its edges: the vector of its node is zero.
            vectors = params.slow["nodes"].at[jnp.asarray(test)].set(0.0)
            return embed_graph(mj.Params(params.slow["graph"], {}), vectors)[chosen]

        slow = {
            "picture": picture.fast,
            "graph": graph.fast,
            # Every node has a vector, which is learned from the characters that it is a part of.
            "nodes": jax.random.normal(key, (len(nodes), config.width)) / 8,
        }
        embed, _ = mj.nets.from_function(of_picture)
        return Nets(mj.Params({}, slow), embed, describe)

    def learn(edges):
        """The nets of this graph, after training."""
        nets = make(edges)
        optimizer = optax.adam(optax.cosine_decay_schedule(config.outer_rate, config.steps))
        outer = mj.outer_loop(nets.task_loss(config.training_ways), optimizer)
        state, _ = mj.training.fit(
            outer,
            outer.init(nets.params),
            mj.data.meta_batch(sample, 1),
            pictures,
            key,
            steps=config.steps,
            fuse=config.fuse,
            every=config.steps,
        )
        return nets._replace(params=state.params)

    # The test. Every test character is in one task: tasks share no picture, as the interval
    # assumes.
    chosen = test[: len(test) // config.ways * config.ways].reshape(-1, config.ways)
    tasks = jax.vmap(task_of, (None, 0))(pictures, jnp.asarray(chosen))
    trained = {"whole graph": learn(whole_graph), "without radicals": learn(without_radicals)}
    rows = {}
    for name, nets in trained.items():
        found = mj.modalities.compare_side_information(
            nets.task_loss(config.ways), nets.params, tasks, key, tasks_at_once=1
        )
        for control in (
            "given",
            "permuted",
            "random",
        ):  # "no shots" is what is given: there are none
            row = f"{name}, {control}"
            rows[row] = common.percent(found[control]["accuracy"].per_task)
            print(f"{row}: {common.cell(rows[row])} %")
    took = time.perf_counter() - started

    named = {
        part: [table["character"][node] for node in part_nodes]
        for part, part_nodes in {"train": train, "test": test}.items()
    }
    report = {
        **common.header(),
        "seconds": took,
        "tasks": len(chosen),
        "ways": config.ways,
        "digest": mj.data.class_split("characters", named).digest,
        "train": len(train),
        "test": len(test),
        "edges": [len(whole_graph), len(without_radicals)],
        "rows": rows,
    }
    common.finish(out, "characters", report, plot)


def plot(report, path):
    """Characters with what they are composed of, and the accuracy of every graph and control."""
    figure = plt.figure(figsize=(11, 3.8))
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.5))
    table = mj.data.hanzi_characters()
    pictures = mj.data.hanzi_pictures()
    row_of = {character: row for row, character in enumerate(table["character"])}
    panels = left.subplots(3, 3)
    for panel, character in zip(panels, "江林明", strict=True):
        parts = [
            row_of[part] for part in table["decomposition"][row_of[character]][1:] if part in row_of
        ]
        for axes in panel:
            axes.axis("off")
        for axes, row in zip(panel, [row_of[character], *parts], strict=False):
            common.draw_image(axes, pictures[row])
    panels[0, 0].set_title("character", fontsize=9)
    panels[0, 1].set_title("its parts", fontsize=9)
    rows = {row: (mean / 100, half / 100) for row, (mean, half) in report["rows"].items()}
    title = f"{report['ways']} characters never seen, without a shot"
    mj.plots.accuracies(right.subplots(), {"": rows}, chance=1 / report["ways"], title=title)
    common.save(
        figure, path, "95 % intervals over test tasks, which share no picture; one net each"
    )


if __name__ == "__main__":
    common.run(main, Config(), TINY, "steps", description=__doc__)
