"""Every fusion of `metajax.nets.fusion` in a prototypical network, on a made task.

Examples have three modalities, each of which knows a part of the class and is missing in every
fifth example. A net that fuses them is trained on tasks of training classes and tested on tasks of
new classes, before and after. Fusions have different numbers of parameters and the same settings,
so that this is a test of each of them and no ranking. Writes benchmarks/results/fusions.json.

python benchmarks/fusions.py
python benchmarks/fusions.py --fusions Gated Bottleneck --steps 1000
python benchmarks/fusions.py --tiny --out /tmp/results    # to see that it runs
"""

import argparse
import functools
import pathlib

import harness
import jax
import numpy as np
import optax
from flax import nnx

import metajax as mj
from metajax.nets import fusion

NAMES = ("audio", "image", "text")
WAYS, SHOTS, QUERIES, WIDTH = 5, 2, 5, 8
INPUTS = 10  # numbers in each modality
CLASSES, EXAMPLES = 100, 20  # training and test classes together, and examples of each
MISSING = 0.2  # probability of each modality
TASKS = 200  # test tasks


FUSIONS = {
    "mean": lambda rngs: fusion.mean,
    "total": lambda rngs: fusion.total,
    "maximum": lambda rngs: fusion.maximum,
    "Weighted": lambda rngs: fusion.Weighted(dict.fromkeys(NAMES, 1.0), learned=True),
    "Concatenation": lambda rngs: fusion.Concatenation(NAMES, WIDTH, rngs=rngs),
    "Deep": lambda rngs: fusion.Deep(NAMES, WIDTH, rngs=rngs),
    "Gated": lambda rngs: fusion.Gated(NAMES, WIDTH, rngs=rngs),
    "Conditioned": lambda rngs: fusion.Conditioned(NAMES, WIDTH, main="image", rngs=rngs),
    "MixtureOfExperts": lambda rngs: fusion.MixtureOfExperts(NAMES, WIDTH, rngs=rngs),
    "StackedConvolution": lambda rngs: fusion.StackedConvolution(NAMES, WIDTH, rngs=rngs),
    "Recurrent": lambda rngs: fusion.Recurrent(NAMES, WIDTH, rngs=rngs),
    "Tensor": lambda rngs: fusion.Tensor(NAMES, WIDTH, rngs=rngs),
    "LowRankTensor": lambda rngs: fusion.LowRankTensor(NAMES, WIDTH, rank=4, rngs=rngs),
    "Multiplicative": lambda rngs: fusion.Multiplicative(NAMES, WIDTH, rngs=rngs),
    "ProductOfExperts": lambda rngs: fusion.ProductOfExperts(NAMES, WIDTH, rngs=rngs),
    "Late": lambda rngs: fusion.Late(NAMES, WIDTH, WIDTH, rngs=rngs),
    "CrossAttention": lambda rngs: fusion.CrossAttention(NAMES, WIDTH, heads=2, rngs=rngs),
    "Bottleneck": lambda rngs: fusion.Bottleneck(NAMES, WIDTH, heads=2, rngs=rngs),
}
"""{name: rngs -> the fusion}."""

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--fusions", nargs="+", choices=FUSIONS, default=[*FUSIONS])
parser.add_argument("--steps", type=int, default=500)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def make_dataset(seed=0):
    """Classes with a centre in each modality, hidden by a linear map; some values are missing."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), EXAMPLES)
    number = len(labels)
    value = {}
    for name in NAMES:
        centres = rng.normal(size=(CLASSES, INPUTS))
        noise = rng.normal(size=(number, INPUTS))
        mixing = rng.normal(size=(INPUTS, INPUTS)) / INPUTS**0.5
        value[name] = ((centres[labels] + noise) @ mixing).astype(np.float32)
    present = rng.uniform(size=(len(NAMES), number)) >= MISSING
    present[0] |= ~present.any(axis=0)  # every example has a modality
    x = mj.data.as_modalities(value, dict(zip(NAMES, present, strict=True)))
    return mj.data.dataset(x, labels)


def make_net(name):
    """(embed, params) of a net with this fusion."""
    rngs = nnx.Rngs(0)
    encoders = {one: mj.nets.MLP(INPUTS, (16,), WIDTH, rngs=rngs) for one in NAMES}
    made = FUSIONS[name](rngs)
    if name == "Late":  # it makes the answer, so that the net has no head
        return mj.nets.functional(mj.nets.Multimodal(encoders, made, WIDTH))
    net = mj.nets.Multimodal(encoders, made, WIDTH, WAYS, rngs=rngs)
    apply, params = mj.nets.functional(net)
    return functools.partial(apply, method="embed"), params


def measure(name, train, tests, steps):
    """The row of one fusion: loss and accuracy of test tasks before and after training."""
    embed, params = make_net(name)
    loss = mj.losses.cross_entropy(mj.linear_head(embed))
    task_loss = mj.query_loss(mj.prototypes(embed, WAYS), loss)
    outer = mj.outer_loop(task_loss, optax.adam(3e-3))
    sample = mj.data.meta_batch(mj.data.episodes(WAYS, SHOTS, QUERIES), tasks=4)

    @jax.jit
    def learn(params, train, key):
        state, _ = mj.training.scan(outer, outer.init(params), sample, train, key, steps=steps)
        return state.params

    evaluate = jax.jit(functools.partial(mj.evaluate, task_loss))
    key = jax.random.key(0)
    row = {"fusion": name, "parameters": sum(leaf.size for leaf in jax.tree.leaves(params))}
    for when, learned in {"before": params, "after": learn(params, train, key)}.items():
        summary = evaluate(learned, tests, key)
        accuracy = summary["accuracy"]
        row[f"loss {when}"] = float(summary["loss"].mean)
        row[f"accuracy {when}"] = [100 * float(accuracy.mean), 100 * float(accuracy.interval)]
    return row


def report(row):
    """Prints one row."""
    loss = f"loss {row['loss before']:.3f} -> {row['loss after']:.3f}"
    accuracy = "accuracy {:.1f} ± {:.1f} %".format(*row["accuracy after"])
    print(f"{row['fusion']:<20}{row['parameters']:>6} parameters, {loss}, {accuracy}", flush=True)


def main(options):
    source = make_dataset()
    split = mj.data.draw_split(source.names, {"train": 70, "test": 30})
    train = mj.data.select_part(source, split, "train")
    test = mj.data.select_part(source, split, "test")
    draw = mj.data.episodes(WAYS, SHOTS, QUERIES)
    tests = mj.data.meta_batch(draw, 8 if options.tiny else TASKS)(test, jax.random.key(1))
    steps = 2 if options.tiny else options.steps
    rows = []
    for name in options.fusions:
        rows.append(measure(name, train, tests, steps))
        report(rows[-1])
    result = harness.header(seed=0, digest=split.digest, steps=steps, rows=rows)
    harness.save(options.out, "fusions", result)


if __name__ == "__main__":
    main(parser.parse_args())
