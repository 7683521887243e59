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

WAYS = 20
TRAINING_WAYS = 100
TRAINING_SHARE = 0.8  # of the characters
WIDTH = 64  # of the features that picture and graph share
CHANNELS = 48  # of the net for pictures
HIDDEN = 128  # units of the graph network's hidden layer
OUTER_RATE = 2e-3
FUSE = 20  # outer steps in one compiled call

parser = common.parser(__doc__, "characters.json and characters.png")
parser.add_argument("--steps", type=int, default=700, help="steps of training for each graph")
options = common.parse(parser)
if options.tiny:
    options.steps = 2
    TRAINING_WAYS = 20
    WIDTH = 4
    CHANNELS = 4
    HIDDEN = 4
    FUSE = 1

key = jax.random.key(0)
started = time.perf_counter()

# Data: one picture of each character, and edges from characters to their parts.
table = mj.data.hanzi_characters()
pictures = jnp.asarray(mj.data.hanzi_pictures())  # uint8[characters, 32, 32, 1], as in the table
nodes, whole_graph = mj.data.composition_graph(table["character"], table["decomposition"])
_, without_radicals = mj.data.composition_graph(
    table["character"], table["decomposition"], without=table["radical"]
)
composed = np.unique(whole_graph[:, 0])  # the characters whose composition is known
composed = np.random.default_rng(0).permutation(composed)
train, test = np.split(composed, [int(TRAINING_SHARE * len(composed))])
if options.tiny:
    test = test[: 2 * WAYS]


def task_of(pictures, chosen):
    """A task without shots: pictures to name. `info` holds the nodes of its classes."""
    x = pictures[chosen] / 255.0
    y = jnp.arange(len(chosen), dtype=jnp.int32)
    no_shots = jnp.zeros(len(chosen))
    support = mj.Batch(jnp.zeros_like(x), y, weight=no_shots, info=chosen)
    return mj.Task(support, mj.Batch(x, y, weight=jnp.ones(len(chosen))))


def sample(pictures, key):
    """A task of training characters."""
    chosen = jax.random.choice(key, jnp.asarray(train), (TRAINING_WAYS,), replace=False)
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
    embed_picture, picture = mj.nets.functional(mj.nets.Conv4(WIDTH, width=CHANNELS, rngs=rngs))
    embed_graph, graph = mj.nets.functional(
        mj.nets.GCN(edges, WIDTH, (HIDDEN,), WIDTH, nodes=len(nodes), rngs=rngs)
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
        "nodes": jax.random.normal(key, (len(nodes), WIDTH)) / 8,
    }
    embed, _ = mj.nets.from_function(of_picture)
    return Nets(mj.Params({}, slow), embed, describe)


def learn(edges):
    """The nets of this graph, after training."""
    nets = make(edges)
    optimizer = optax.adam(optax.cosine_decay_schedule(OUTER_RATE, options.steps))
    outer = mj.outer_loop(nets.task_loss(TRAINING_WAYS), optimizer)
    state, _ = mj.training.fit(
        outer,
        outer.init(nets.params),
        mj.data.meta_batch(sample, 1),
        pictures,
        key,
        steps=options.steps,
        fuse=FUSE,
        every=options.steps,
    )
    return nets._replace(params=state.params)


# The test. Every test character is in one task: tasks share no picture, as the interval assumes.
chosen = test[: len(test) // WAYS * WAYS].reshape(-1, WAYS)
tasks = jax.vmap(task_of, (None, 0))(pictures, jnp.asarray(chosen))
trained = {"whole graph": learn(whole_graph), "without radicals": learn(without_radicals)}
rows = {}
for name, nets in trained.items():
    found = mj.modalities.compare_side_information(
        nets.task_loss(WAYS), nets.params, tasks, key, tasks_at_once=1
    )
    for control in ("given", "permuted", "random"):  # "no shots" is what is given: there are none
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
    "ways": WAYS,
    "digest": mj.data.class_split("characters", named).digest,
    "train": len(train),
    "test": len(test),
    "edges": [len(whole_graph), len(without_radicals)],
    "rows": rows,
}
common.write_report(options.out / "characters.json", report)

# The picture: the characters of one task, and how probable the graph finds each of them.
nets = trained["whole graph"]
task = jax.tree.map(lambda leaf: leaf[0], tasks)
probability = jax.nn.softmax(
    jax.jit(mj.predict, static_argnums=(0, 1))(
        nets.adaptation(WAYS),
        mj.linear_head(nets.embed),
        nets.params,
        task.support,
        task.query.x,
        key,
    )
)
figure, (left, right) = plt.subplots(
    1, 2, figsize=(11, 5), width_ratios=(1, 1.1), layout="constrained"
)
rows_of_five = np.asarray(task.query.x[:, :, :, 0]).reshape(4, 5, 32, 32)
left.imshow(1 - rows_of_five.transpose(0, 2, 1, 3).reshape(128, 160), cmap="gray")
for way in range(WAYS):
    correct = int(probability[way].argmax()) == way
    colour = mj.plots.RIGHT if correct else mj.plots.WRONG
    x = (way % 5) * 32 + 0.5
    y = (way // 5) * 32 + 0.5
    left.add_patch(plt.Rectangle((x, y), 30, 30, fill=False, edgecolor=colour, linewidth=2))
    left.text(x + 2, y + 7, str(way + 1), fontsize=7, color=colour)
left.set_title("20 characters never seen (green: named by the graph)")
left.axis("off")
right.imshow(probability, cmap="viridis")
ticks = range(0, WAYS, 2)
labels = [tick + 1 for tick in ticks]
right.set(
    xlabel="composition of character",
    ylabel="picture of character",
    title="probability, without a shot",
    xticks=ticks,
    xticklabels=labels,
    yticks=ticks,
    yticklabels=labels,
)
figure.savefig(options.out / "characters.png", dpi=100)
print(f"{took:.0f} s; see characters.png and characters.json in {options.out}.")
