"""Every fusion, and encoders of every kind, in prototypical networks with modalities missing.

A net that fuses the modalities is trained on tasks of training classes, in which a modality of an
example is left out in a quarter of the cases, and is tested on tasks of new classes: with all
modalities, and without each of them. First every fusion with the first encoder of each modality,
then the mean with every other encoder. Nets have different numbers of parameters and the same
settings, so that this is a test of each of them and no ranking. The data:

- made: three modalities that each know a part of the class; it needs no data file;
- strokes: Omniglot, image + stroke, alphabets never seen;
- digits: written + spoken digits, five to train and five to test;
- texts: Chinese characters by radical, image + definition;
- graph: the same, image + the parts that a character has in common with others, but its radical.

Rows are added to benchmarks/results/fusions.json, so that a run that was stopped goes on.

METAJAX_DATA=folder python benchmarks/fusions.py
python benchmarks/fusions.py --data made --fusions Gated Bottleneck --steps 1000
python benchmarks/fusions.py --data made --tiny --out /tmp/results    # to see that it runs
"""

import argparse
import functools
import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import harness
import jax
import numpy as np
import optax
import ruler
from flax import nnx

import metajax as mj
from metajax.modalities import drop_modalities, restrict
from metajax.nets import fusion

WAYS, SHOTS, QUERIES, WIDTH = 5, 1, 5, 32
LEFT_OUT = 0.25  # how often a modality is missing in training
TASKS = 200  # of a test
INPUTS, CLASSES, EXAMPLES = 10, 100, 20  # of the made modalities

FUSIONS = {
    "mean": lambda names, rngs: fusion.mean,
    "total": lambda names, rngs: fusion.total,
    "maximum": lambda names, rngs: fusion.maximum,
    "Weighted": lambda names, rngs: fusion.Weighted(dict.fromkeys(names, 1.0), learned=True),
    "Concatenation": lambda names, rngs: fusion.Concatenation(names, WIDTH, rngs=rngs),
    "Deep": lambda names, rngs: fusion.Deep(names, WIDTH, rngs=rngs),
    "Gated": lambda names, rngs: fusion.Gated(names, WIDTH, rngs=rngs),
    "Conditioned": lambda names, rngs: fusion.Conditioned(names, WIDTH, main="image", rngs=rngs),
    "MixtureOfExperts": lambda names, rngs: fusion.MixtureOfExperts(names, WIDTH, rngs=rngs),
    "StackedConvolution": lambda names, rngs: fusion.StackedConvolution(names, WIDTH, rngs=rngs),
    "Recurrent": lambda names, rngs: fusion.Recurrent(names, WIDTH, rngs=rngs),
    "Tensor": lambda names, rngs: fusion.Tensor(names, WIDTH, rngs=rngs),
    "LowRankTensor": lambda names, rngs: fusion.LowRankTensor(names, WIDTH, rank=4, rngs=rngs),
    "Multiplicative": lambda names, rngs: fusion.Multiplicative(names, WIDTH, rngs=rngs),
    "ProductOfExperts": lambda names, rngs: fusion.ProductOfExperts(names, WIDTH, rngs=rngs),
    "Late": lambda names, rngs: fusion.Late(names, WIDTH, WIDTH, rngs=rngs),
    "CrossAttention": lambda names, rngs: fusion.CrossAttention(names, WIDTH, heads=2, rngs=rngs),
    "Bottleneck": lambda names, rngs: fusion.Bottleneck(names, WIDTH, heads=2, rngs=rngs),
}
"""{name: (names of the modalities, rngs) -> the fusion}."""


class Nodes(nnx.Module):
    """Features of nodes of a graph, int[n] -> [n, WIDTH], by a graph convolutional network."""

    def __init__(self, edges, nodes, rngs):
        self.net = mj.nets.GCN(edges, WIDTH, (WIDTH,), WIDTH, nodes=nodes, rngs=rngs)
        # What a node is, is what it is next to: the features that it starts from are random.
        self.start = nnx.BatchStat(jax.random.normal(rngs.params(), (nodes, WIDTH)))

    def __call__(self, x):
        return self.net(self.start[...])[x]


IMAGES = {
    "Conv4": lambda rngs: mj.nets.Conv4(WIDTH, width=32, rngs=rngs),
    "ResNet12": lambda rngs: mj.nets.ResNet12(
        WIDTH, channels=1, widths=(16, 32, 48, 64), rngs=rngs
    ),
    "ViT": lambda rngs: mj.nets.ViT(WIDTH, channels=1, patch=4, width=32, layers=2, rngs=rngs),
}


def series(inputs):
    """Encoders of sequences with this number of channels."""
    return {
        name: functools.partial(lambda make, rngs: make(inputs, WIDTH, rngs=rngs), make)
        for name, make in {
            "TemporalConv": mj.nets.TemporalConv,
            "GRU": mj.nets.GRU,
            "SequenceTransformer": mj.nets.SequenceTransformer,
            "DeepSets": mj.nets.DeepSets,
        }.items()
    }


SOUNDS = {
    f"Audio, {name}": lambda rngs, make=make: mj.nets.Audio(make(rngs), rate=8000)
    for name, make in list(series(40).items())[:3]
}
TEXTS = {
    f"Text, {name}": lambda rngs, make=make: mj.nets.Text(2000, make(rngs), rngs=rngs)
    for name, make in list(series(32).items())[:3]
} | {
    "SentenceEncoder": lambda rngs: mj.nets.SentenceEncoder(
        2000, WIDTH, width=32, layers=1, heads=4, longest=48, rngs=rngs
    )
}


class Setting(NamedTuple):
    """One kind of data.

    Attributes:
        train: what `sample` draws training tasks from.
        test: the data set of test classes.
        encoders: {modality: {name: rngs -> module}}.
        split: of the classes.
        sample: (train, key) -> training tasks.
    """

    train: object
    test: mj.data.Dataset
    encoders: dict
    split: mj.data.Split
    sample: Callable = mj.data.meta_batch(mj.data.episodes(WAYS, SHOTS, QUERIES), tasks=4)


def made():
    """Classes with a centre in each of three modalities, hidden by a linear map."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), EXAMPLES)
    value = {}
    for name in ("audio", "image", "text"):
        centres = rng.normal(size=(CLASSES, INPUTS))
        noise = rng.normal(size=(len(labels), INPUTS))
        mixing = rng.normal(size=(INPUTS, INPUTS)) / INPUTS**0.5
        value[name] = ((centres[labels] + noise) @ mixing).astype(np.float32)
    source = mj.data.dataset(mj.data.as_modalities(value), labels)
    perceptron = {"MLP": lambda rngs: mj.nets.MLP(INPUTS, (16,), WIDTH, rngs=rngs)}
    split = mj.data.draw_split(source.names, {"train": 70, "test": 30})
    return setting_of(source, split, dict.fromkeys(value, perceptron))


def strokes():
    """Omniglot, image + stroke."""
    parts, _, _, split = ruler.strokes(0)
    return Setting(parts[0], parts[2], {"image": IMAGES, "stroke": series(4)}, split)


def digits():
    """Written + spoken digits. Four of five training tasks are of characters without a sound."""
    parts, _, sample, split = ruler.digits(0)
    return Setting(parts[0], parts[2], {"image": IMAGES, "audio": SOUNDS}, split, sample)


def texts():
    """Chinese characters, image + definition."""
    source = mj.data.hanzi()
    without = mj.modalities.remove_modalities(source.x, ["stroke"])
    source = mj.data.dataset(without, source.y, names=source.names, scale=source.scale)
    return setting_of(source, radicals(source), {"image": IMAGES, "definition": TEXTS})


def graph():
    """Chinese characters, image + the number of the node in the graph of parts."""
    source, rows = mj.data.hanzi(), characters_of_hanzi()
    table = mj.data.hanzi_characters()
    names, edges = mj.data.composition_graph(
        table["character"], table["decomposition"], without=set(table["radical"])
    )
    value = {"image": source.x.value["image"], "graph": rows.astype(np.int32)}
    x = mj.data.as_modalities(value)
    source = mj.data.dataset(x, source.y, names=source.names, scale={"image": 255})
    nodes = {"GCN": lambda rngs: Nodes(edges, len(names), rngs)}
    return setting_of(source, radicals(source), {"image": IMAGES, "graph": nodes})


def characters_of_hanzi():
    """The row of every example of `hanzi()` in the table of characters.

    The examples are those of radicals with 20 or more characters, sorted by radical.
    """
    labels = np.array(mj.data.hanzi_characters()["radical"])
    radical, count = np.unique(labels, return_counts=True)
    order = np.argsort(labels, kind="stable")
    return order[np.isin(labels[order], radical[count >= 20])]


def radicals(source):
    """67 radicals to train and 27 to test, drawn at random."""
    return mj.data.draw_split(source.names, {"train": 67, "test": 27}, seed=0)


def setting_of(source, split, encoders):
    """The setting of a data set that is split by class."""
    train, test = (mj.data.select_part(source, split, part) for part in ("train", "test"))
    return Setting(train, test, encoders, split)


DATA = {"made": made, "strokes": strokes, "digits": digits, "texts": texts, "graph": graph}

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--data", nargs="+", choices=DATA, default=[*DATA])
parser.add_argument("--fusions", nargs="+", choices=FUSIONS, default=[*FUSIONS])
parser.add_argument("--steps", type=int, default=400)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


class Net(NamedTuple):
    """A fusion, and the encoder of each modality, by name."""

    fusion: str
    encoders: dict[str, str]


def nets_of(setting, fusions):
    """{name of the row: Net}: fusions with the first encoders, and the mean with the others."""
    first = {name: next(iter(of)) for name, of in setting.encoders.items()}
    found = {one: Net(one, first) for one in fusions}
    for modality, of in setting.encoders.items():
        for encoder in list(of)[1:]:
            found[f"mean, {encoder}"] = Net("mean", first | {modality: encoder})
    return found


def make_net(setting, net):
    """(embed, params) of a net."""
    rngs = nnx.Rngs(0)
    names = sorted(setting.encoders)
    encoders = {name: setting.encoders[name][net.encoders[name]](rngs) for name in names}
    fused = FUSIONS[net.fusion](names, rngs)
    if net.fusion == "Late":  # it makes the answer, so that the net has no head
        return mj.nets.functional(mj.nets.Multimodal(encoders, fused, WIDTH))
    apply, params = mj.nets.functional(mj.nets.Multimodal(encoders, fused, WIDTH, WAYS, rngs=rngs))
    return functools.partial(apply, method="embed"), params


def measure(setting, net, tests, steps):
    """The row of a net: loss and accuracy of test tasks, with modalities missing and untrained."""
    embed, params = make_net(setting, net)
    loss = mj.losses.cross_entropy(mj.linear_head(embed))
    task_loss = mj.query_loss(mj.prototypes(embed, WAYS), loss)

    def with_dropout(params, task, key):
        support_key, query_key, loss_key = jax.random.split(key, 3)
        support = task.support._replace(x=drop_modalities(task.support.x, LEFT_OUT, support_key))
        query = task.query._replace(x=drop_modalities(task.query.x, LEFT_OUT, query_key))
        return task_loss(params, mj.Task(support, query), loss_key)

    outer = mj.outer_loop(with_dropout, optax.adam(optax.cosine_decay_schedule(3e-3, steps)))
    state, _ = mj.training.fit(
        outer,
        outer.init(params),
        setting.sample,
        setting.train,
        jax.random.key(0),
        steps=steps,
        fuse=min(20, steps),
        every=steps,
        progress=False,
    )
    score = jax.jit(functools.partial(mj.evaluate, task_loss, tasks_at_once=4))

    def accuracy(params, names):
        parts = (tests.support, tests.query)
        limited = [part._replace(x=restrict(part.x, names)) for part in parts]
        found = score(params, mj.Task(*limited), jax.random.key(1))["accuracy"]
        return [100 * float(found.mean), 100 * float(found.interval)]

    names = set(setting.encoders)
    return {
        "encoders": net.encoders,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "untrained": accuracy(params, names),
        "all": accuracy(state.params, names),
        "without": {name: accuracy(state.params, names - {name}) for name in sorted(names)},
    }


def main(options):
    steps, tasks = (2, 4) if options.tiny else (options.steps, TASKS)
    path = options.out / "fusions.json"
    report = json.loads(path.read_text()) if path.exists() else {"rows": {}, "digests": {}}
    if report.get("steps", steps) != steps:
        raise SystemExit(f"{path} is of other --steps; give another --out.")
    report.update(harness.header(seed=0, steps=steps, tests=tasks))
    for data in options.data:
        setting = DATA[data]()
        draw = mj.data.meta_batch(mj.data.episodes(WAYS, SHOTS, QUERIES), tasks)
        tests = jax.jit(draw)(setting.test, jax.random.key(1))
        rows = report["rows"].setdefault(data, {})
        report["digests"][data] = setting.split.digest
        for name, net in nets_of(setting, options.fusions).items():
            if name in rows:
                continue
            rows[name] = measure(setting, net, tests, steps)
            print(data, name, rows[name]["all"], rows[name]["without"], flush=True)
            harness.save(options.out, "fusions", report)


if __name__ == "__main__":
    main(parser.parse_args())
