"""Chinese characters never seen, recognised by what they are composed of: zero-shot over a knowledge graph.

Reads `hanzi.npz` from the folder that METAJAX_DATA names. The classes are characters, one picture each: 80 % of those
whose composition is known are learned, 20 % are the test, in tasks of 20 ways without a single shot; no setting was
chosen on them. A graph network over "character - part" edges writes the head: 江 is made of 氵 and 工, which stand in
other characters too. Its controls are the compositions of other characters: permuted within the task, where each
picture's own is another's and the answer so worse than chance, or random; and a graph without any edge to a radical,
which has 7 000 of the 19 000 edges.

    METAJAX_DATA=... python examples/characters.py --out .
"""

import argparse
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import metajax as mj
from metajax import modalities

WAYS, TRAIN_WAYS, WIDTH = 20, 100, 64

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--steps", type=int, default=700, help="steps of training for each graph")
parser.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path(), help="folder of characters.json and .png"
)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)
key, started = jax.random.key(0), time.perf_counter()

table = mj.data.hanzi_characters()
pictures = jnp.asarray(
    mj.data.hanzi_pictures()
)  # uint8[characters, 32, 32, 1], in the order of the table
names, whole_graph = mj.data.composition_graph(table["character"], table["decomposition"])
_, without_radicals = mj.data.composition_graph(
    table["character"], table["decomposition"], without=table["radical"]
)
known = np.unique(whole_graph[:, 0])  # characters that are made of something
known = np.random.default_rng(0).permutation(known)
train, test = np.split(known, [int(0.8 * len(known))])


def task_of(characters, chosen):
    """A task without shots: pictures to name, and as info the numbers of their characters, which are their nodes."""
    y, x = jnp.arange(len(chosen), dtype=jnp.int32), characters[chosen] / 255.0
    support = mj.Batch(jnp.zeros_like(x), y, weight=jnp.zeros(len(chosen)), info=chosen)
    return mj.Task(support, mj.Batch(x, y, weight=jnp.ones(len(chosen))))


def sample(characters, key):
    return task_of(
        characters, jax.random.choice(key, jnp.asarray(train), (TRAIN_WAYS,), replace=False)
    )


def learn(edges):
    """Params of a graph network and a picture network that agree on characters, and the task loss of WAYS ways."""
    rngs, nodes = nnx.Rngs(0), len(names)
    embed_picture, picture = mj.nets.functional(mj.nets.Conv4(WIDTH, width=48, rngs=rngs))
    embed_graph, graph = mj.nets.functional(
        mj.nets.GCN(edges, WIDTH, (128,), WIDTH, nodes=nodes, rngs=rngs)
    )
    # A node is known by a vector of its own, which is learned from the characters that it is a part of.
    start = {
        "picture": picture.fast,
        "graph": graph.fast,
        "nodes": jax.random.normal(key, (nodes, WIDTH)) / 8,
    }

    def embed(params, x, key=None, *, reference=None):
        return embed_picture(mj.Params(params.slow["picture"], {}), x)

    def describe(params, chosen, key=None):
        parts = (
            params.slow["nodes"].at[jnp.asarray(test)].set(0.0)
        )  # nothing but its edges is known of a test character
        return embed_graph(mj.Params(params.slow["graph"], {}), parts)[chosen]

    loss = mj.losses.cross_entropy(mj.linear_head(embed))
    few_shot_loss = lambda ways: mj.query_loss(
        modalities.cross_modal_prototypes(embed, describe, ways), loss
    )
    outer = mj.outer_loop(
        few_shot_loss(TRAIN_WAYS), optax.adam(optax.cosine_decay_schedule(2e-3, options.steps))
    )
    state, _ = mj.training.fit(
        outer, outer.init(mj.Params({}, start)), mj.data.meta_batch(sample, 1), pictures, key,
        steps=options.steps, fuse=20, every=options.steps,
    )  # fmt: skip
    return state.params, few_shot_loss(WAYS), embed, describe


# Each test character is in one task, so that tasks, and with them the interval, do not share pictures.
tasks = jax.vmap(task_of, (None, 0))(
    pictures, jnp.asarray(test[: len(test) // WAYS * WAYS]).reshape(-1, WAYS)
)
number = len(tasks.query.y)
rows = {}
for name, edges in {"whole graph": whole_graph, "without radicals": without_radicals}.items():
    params, task_loss, *nets = learn(edges)
    if name == "whole graph":
        shown = params, *nets
    judged = modalities.compare_side_information(task_loss, params, tasks, key, tasks_at_once=1)
    for control in ("given", "permuted", "random"):  # "no shots" is what is given: there are none
        accuracy = judged[control]["accuracy"]
        rows[f"{name}, {control}"] = [100 * float(accuracy.mean), 100 * float(accuracy.interval)]
        print(
            f"{name}, {control}: {rows[f'{name}, {control}'][0]:.1f} ± {rows[f'{name}, {control}'][1]:.1f} %"
        )
took = time.perf_counter() - started
report = {
    "jax": jax.__version__,
    "device": jax.devices()[0].device_kind,
    "seconds": took,
    "tasks": number,
    "ways": WAYS,
}
parts = {"train": train, "test": test}
named = {
    part: [table["character"][number] for number in numbers] for part, numbers in parts.items()
}
report["digest"] = mj.data.class_split("characters", named).digest
report |= {
    "train": len(train),
    "test": len(test),
    "edges": [len(whole_graph), len(without_radicals)],
    "rows": rows,
}
(options.out / "characters.json").write_text(json.dumps(report, indent=1) + "\n")

# The picture: characters of one task, what each is made of, and how near the graph thinks each picture is to it.
params, embed, describe = shown
task = jax.tree.map(lambda leaf: leaf[0], tasks)
adapted = modalities.cross_modal_prototypes(embed, describe, WAYS).adapt(params, task.support, key)
chances = jax.nn.softmax(mj.linear_head(embed)(adapted, task.query.x))
figure, (left, right) = plt.subplots(
    1, 2, figsize=(11, 5), width_ratios=(1, 1.1), layout="constrained"
)
strip = (
    np.asarray(task.query.x[:, :, :, 0])
    .reshape(4, 5, 32, 32)
    .transpose(0, 2, 1, 3)
    .reshape(128, 160)
)
left.imshow(1 - strip, cmap="gray")
for way in range(WAYS):
    right_answer = int(chances[way].argmax()) == way
    colour = mj.plots.RIGHT if right_answer else mj.plots.WRONG
    corner = (way % 5) * 32 + 0.5, (way // 5) * 32 + 0.5
    left.add_patch(plt.Rectangle(corner, 30, 30, fill=False, edgecolor=colour, linewidth=2))
    left.text(corner[0] + 2, corner[1] + 7, str(way + 1), fontsize=7, color=colour)
left.set_title("20 characters never seen (green: named by the graph)")
left.axis("off")
right.imshow(chances, cmap="viridis")
right.set(
    xlabel="composition of character",
    ylabel="picture of character",
    title="probability, without a shot",
)
ticks = range(0, WAYS, 2)
right.set(
    xticks=ticks,
    xticklabels=[t + 1 for t in ticks],
    yticks=ticks,
    yticklabels=[t + 1 for t in ticks],
)
figure.savefig(options.out / "characters.png", dpi=100)
print(f"{took:.0f} s; see {options.out / 'characters.png'} and characters.json.")
