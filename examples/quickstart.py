"""Letters of scripts never seen, from one or five examples: pixels, fine-tuning, MAML and prototypical networks.

Needs no file: the letters are those of the fonts inside matplotlib. The nets are the same and train for the same time,
on Latin letters; Armenian and Georgian choose the settings of fine-tuning; Greek and Cyrillic are the test. Prints a
table, keeps it as JSON, and draws a picture.

    python examples/quickstart.py --seconds 12 --out .
"""

import argparse
import functools
import json
import pathlib
import platform
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from flax import nnx

import metajax as mj

WAYS, QUERIES, SHOTS, WIDTH, TEST_TASKS, VALIDATION_TASKS = 5, 7, (1, 5), 32, 600, 60
INNER_RATE, INNER_STEPS = 0.5, 3
RATES = jnp.array(
    [1e-3, 3e-3, 1e-2]
)  # of fine-tuning; and its steps, its layers and the head that it starts from:
SETTINGS = (
    (5, "all", "prototypes"),
    (20, "head", "prototypes"),
    (20, "head", "zeros"),
    (10, "all", "zeros"),
)

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--seconds", type=float, default=12.0, help="training time of each net")
parser.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path(), help="folder of quickstart.json and .png"
)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)
key, started = jax.random.key(0), time.perf_counter()

# Data: three sets of classes whose scripts are disjoint, and tasks that are the same for all methods.
letters = mj.data.glyphs()
split = mj.data.split_scripts(
    letters, train=["Latin"], validation=["Armenian", "Georgian"], test=["Greek", "Cyrillic"]
)
print(
    f"Classes: {split.train.classes} to train, {split.validation.classes} to validate, {split.test.classes} to test;"
)
print(f"{split.dropped} classes dropped that look like a letter of an earlier part.")
draw = lambda shots, tasks: jax.jit(
    mj.data.meta_batch(mj.data.episodes(WAYS, shots, QUERIES), tasks)
)
validation = {
    shots: draw(shots, VALIDATION_TASKS)(split.validation, jax.random.key(1)) for shots in SHOTS
}
test = {shots: draw(shots, TEST_TASKS)(split.test, jax.random.key(2)) for shots in SHOTS}


def judge(task_loss, params, tasks):
    """Accuracy over tasks, in pieces of one size, so that one compiled function serves validation and test."""
    pieces = jax.tree.map(lambda leaf: leaf.reshape(-1, VALIDATION_TASKS, *leaf.shape[1:]), tasks)
    first = range(len(pieces.query.y))
    per_task = [
        judge_piece(task_loss, params, jax.tree.map(lambda leaf: leaf[i], pieces)) for i in first
    ]  # noqa: B023
    return mj.summarize(jnp.concatenate(per_task))


@functools.partial(jax.jit, static_argnums=0)
def judge_piece(task_loss, params, tasks):
    return mj.evaluate(task_loss, params, tasks, key, tasks_at_once=4)["accuracy"].per_task


def make_net(outputs, fast=nnx.Param):
    return mj.nets.functional(mj.nets.Conv4(outputs, width=WIDTH, rngs=nnx.Rngs(0)), fast=fast)


def train(name, task_loss, params, sample, tasks, every, judged=None):
    """Trains for the given seconds; returns the params and the records, with accuracy on the validation scripts."""
    print(f"\n{name}")
    outer = mj.outer_loop(task_loss, optax.adam(5e-3))
    evaluate = (
        None
        if judged is None
        else lambda params, key: {"accuracy": judge(judged, params, validation[1])}
    )
    sample = mj.data.meta_batch(sample, tasks)
    schedule = {"steps": 10**6, "seconds": options.seconds, "fuse": 10, "every": every}
    state, records = mj.training.fit(
        outer, outer.init(params), sample, split.train, key, evaluate=evaluate, **schedule
    )
    return state.params, records


results = {}  # {method: {shots: accuracy}}

# Raw pixels: the nearest mean of the images themselves.
pixels = lambda params, x, key=None, *, reference=None: x.reshape(len(x), -1)
nearest = mj.query_loss(
    mj.prototypes(pixels, WAYS), mj.losses.cross_entropy(mj.linear_head(pixels))
)
results["Raw pixels"] = {k: judge(nearest, mj.Params({}, {}), test[k]) for k in SHOTS}

# Fine-tuning: a net trained on the union of all classes, then a few steps of Adam from the head of prototypes.
apply, params = make_net(split.train.classes)
union = mj.supervised(mj.losses.cross_entropy(apply))
pretrained, _ = train(
    "Pretraining on the union of the classes",
    union,
    params,
    mj.data.batches(size=128),
    1,
    every=500,
)
body = {name: leaf for name, leaf in pretrained.fast.items() if name != "head"}
zeros = {"head": {"kernel": jnp.zeros((WIDTH, WAYS)), "bias": jnp.zeros(WAYS)}}


def fine_tuned(steps, layers, head):
    """As a task loss; the rate of Adam is a parameter, so that one compiled function serves all rates."""
    apply, _ = make_net(WAYS, nnx.PathContains("head") if layers == "head" else nnx.Param)
    loss, adam = (
        mj.losses.cross_entropy(apply),
        mj.Rule(init=lambda params, key: RATES[0], optimizer=optax.adam),
    )
    write = (
        mj.prototypes(functools.partial(apply, method="embed"), WAYS)
        if head == "prototypes"
        else mj.identity()
    )
    descent = mj.inner_loop(loss, adam, steps=steps, differentiate=mj.first_order())
    return mj.query_loss(mj.chain(write, descent), loss)


results["Fine-tuned"], chosen = {}, {}
task_losses = {setting: fine_tuned(*setting) for setting in SETTINGS}
starts = {"head": mj.Params(zeros, body), "all": mj.Params(body | zeros, {})}
for k in SHOTS:
    print(f"\nFine-tuning on {k} shot: accuracy in % on the validation scripts, for rates {RATES}")
    tried = {}
    for setting, task_loss in task_losses.items():
        for rate in RATES:
            params = starts[setting[1]]._replace(rule=((), rate))
            tried[setting, rate.item()] = (
                100 * judge(task_loss, params, validation[k]).mean.item(),
                params,
            )
        means = [mean for mean, _ in list(tried.values())[-len(RATES) :]]
        print(
            "  {:2} steps, {:>4} layers, from {:<10}".format(*setting),
            "  ".join(f"{mean:.1f}" for mean in means),
        )
    chosen[k] = max(tried, key=lambda choice: tried[choice][0])
    results["Fine-tuned"][k] = judge(task_losses[chosen[k][0]], tried[chosen[k]][1], test[k])

# MAML: the start of a few steps of descent is learned.
apply, params = make_net(WAYS)
loss = mj.losses.cross_entropy(apply)
descend = lambda steps: mj.inner_loop(loss, optax.sgd(INNER_RATE), steps=steps)
maml = mj.query_loss(descend(INNER_STEPS), loss)
start, maml_records = train(
    "MAML", maml, params, mj.data.episodes(WAYS, 1, QUERIES), 8, every=50, judged=maml
)
results["MAML"] = {k: judge(maml, start, test[k]) for k in SHOTS}


def path(params, task, key):
    """A task loss of our own, for the picture: accuracy after 0, 1, ... 10 inner steps."""
    step = lambda params, _: (
        descend(1).adapt(params, task.support, key),
        loss(params, task.query, key)[1],
    )
    return jnp.zeros(()), jax.lax.scan(step, params, length=11)[1]


by_steps = judge(path, start, test[1])

# Prototypical networks: the features are learned, the head is written. Trained on 20 ways, tested on 5.
apply, params = make_net(WAYS, nnx.PathContains("head"))
embed = functools.partial(apply, method="embed")
protonet = {
    ways: mj.query_loss(mj.prototypes(embed, ways), mj.losses.cross_entropy(apply))
    for ways in (WAYS, 20)
}
more_ways = mj.data.episodes(20, 1, QUERIES)
features, protonet_records = train(
    "ProtoNets", protonet[20], params, more_ways, 1, every=100, judged=protonet[WAYS]
)
results["ProtoNets"] = {k: judge(protonet[WAYS], features, test[k]) for k in SHOTS}

# The table.
print(
    f"\n{WAYS}-way accuracy in % on {TEST_TASKS} tasks of unseen scripts (and the paired difference to fine-tuning)"
)
table = []
for method, accuracies in results.items():
    row = {"method": method}
    for k, accuracy in accuracies.items():
        paired = mj.summarize(accuracy.per_task - results["Fine-tuned"][k].per_task)
        row[f"{k} shot"] = [
            100 * v.item() for v in (accuracy.mean, accuracy.interval, paired.mean, paired.interval)
        ]
    cells = ["{:5.1f} ± {:.1f} ({:+5.1f} ± {:.1f})".format(*row[f"{k} shot"]) for k in SHOTS]
    print(
        f"  {method:<12} "
        + "   ".join(f"{k} shot {cell}" for k, cell in zip(SHOTS, cells, strict=True))
    )
    table.append(row)
took = time.perf_counter() - started
print(f"{took:.0f} s in all, {options.seconds:.0f} s to train each net. Fine-tuning: {chosen}")
device = f"{jax.devices()[0].device_kind}, {platform.machine()}"
header = {
    "jax": jax.__version__,
    "device": device,
    "seconds": took,
    "training_seconds": options.seconds,
}
parts = {"train": split.train, "validation": split.validation, "test": split.test}
header["digest"] = mj.data.class_split("scripts", parts).digest
chosen = {f"{k} shot": [*setting, rate] for k, (setting, rate) in chosen.items()}
report = {
    **header,
    "test_tasks": TEST_TASKS,
    "dropped": split.dropped,
    "fine_tuning": chosen,
    "rows": table,
}
(options.out / "quickstart.json").write_text(json.dumps(report, indent=1) + "\n")

# The picture.
figure, axes = plt.subplots(1, 3, figsize=(15, 4.2), width_ratios=(1.6, 1, 1), layout="constrained")
task = jax.tree.map(lambda leaf: leaf[0], test[1])
answers = mj.predict(
    mj.prototypes(embed, WAYS), apply, features, task.support, task.query.x, key
).argmax(axis=1)
mj.plots.task(
    axes[0], task, answers, title="One example of each letter, and the answers of ProtoNets"
)
curves = {}
for name, records in (("MAML", maml_records), ("ProtoNets", protonet_records)):
    accuracy, interval = (
        [100 * r[f"evaluate/accuracy{of}"] for r in records] for of in ("", "/interval")
    )
    curves[name] = ([record["seconds"] for record in records], accuracy, interval)
percent = {"ylabel": "accuracy, 1 shot, %"}
mj.plots.curves(
    axes[1],
    curves,
    xlabel="seconds of training",
    title="Learning, on validation scripts",
    **percent,
)
steps = {"MAML": (range(11), 100 * by_steps.mean, 100 * by_steps.interval)}
mj.plots.curves(
    axes[2], steps, xlabel="inner steps", title="Adapting, on unseen scripts", **percent
)
figure.savefig(options.out / "quickstart.png", dpi=110)
print(f"Picture and table are in {options.out / 'quickstart.png'} and quickstart.json.")
