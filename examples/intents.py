"""New intents from one or five utterances, and hearing when what is said is none of them.

Reads CLINC150 from the folder that METAJAX_DATA names: 150 intents in 10 domains ("banking", "travel", ...), 50
utterances of each, and 1 000 that are out of scope. Seven domains are for training and three for testing, in 5 splits
in which each domain is tested once or twice; intervals are by Student's t over these splits. A test task has 5 intents
never seen, 10 queries of each and 50 queries out of scope, which no training has seen either.

How near a query is to the intents tells whether it is one at all. Three scores are judged by the area under the ROC
curve, the chance that a query in scope scores higher than one out of scope: the nearest class, log Σ exp of all
classes ("energy"), and the probability of the likeliest class. No setting was chosen on test domains.

    METAJAX_DATA=... python examples/intents.py --out .
"""

import argparse
import json
import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import metajax as mj
from metajax.nets import sentence_features

WAYS, QUERIES, OUTSIDE, WIDTH, VOCABULARY, LENGTH = 5, 10, 50, 64, 2000, 48

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument(
    "--steps", type=int, default=300, help="steps of training for each learner and split"
)
parser.add_argument("--tasks", type=int, default=200, help="test tasks of each split")
parser.add_argument("--splits", type=int, default=5, help="splits of the domains, 2 to 5")
parser.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path(), help="folder of intents.json and .png"
)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)
cache = (
    tempfile.TemporaryDirectory()
)  # the programs of all splits are the same: only the first waits for the compiler
jax.config.update("jax_compilation_cache_dir", cache.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
key, started = jax.random.key(0), time.perf_counter()

# Data: rows 0 to 7 499 are in scope, the last 1 000 are not. Tasks hold the numbers of rows, so that every learner
# looks up its own features and all are judged on the same tasks.
texts, intents = (
    first + second
    for first, second in zip(*map(mj.data.clinc150_texts, ("val", "test")), strict=True)
)
texts += mj.data.clinc150_texts("oos_test")[0]
names, label = np.unique(intents, return_inverse=True)
domain = np.array([name.partition("/")[0] for name in names])
inside = len(label)
order = np.random.default_rng(0).permutation(np.unique(domain))


def draw(held_out, shots):
    """Tasks of the intents of some domains: the row numbers of shots and queries, those out of scope at the end."""
    numbers = mj.data.dataset(np.arange(inside, dtype=np.int32), label, names=names.tolist())
    numbers = mj.data.select(numbers, np.isin(domain, held_out))
    draw_task = mj.data.episodes(WAYS, shots, QUERIES)

    def one(numbers, key):
        first, second = jax.random.split(key)
        task = draw_task(numbers, first)
        outside = inside + jax.random.choice(second, len(texts) - inside, (OUTSIDE,), replace=False)
        # Their label has no meaning: weight 0 keeps it out of the accuracy.
        x, y = (
            jnp.concatenate([task.query.x, outside]),
            jnp.concatenate([task.query.y, jnp.zeros(OUTSIDE, jnp.int32)]),
        )
        weight = (jnp.arange(len(x)) < len(x) - OUTSIDE) * 1.0
        return mj.Task(task.support, mj.Batch(x, y, weight=weight))

    return jax.jit(mj.data.meta_batch(one, options.tasks))(numbers, jax.random.key(shots))


seen = lambda params, x, key=None, *, reference=None: params.slow[x]  # the features of the rows
linear = mj.linear_head(seen)


def area(scores):
    """Area under the ROC curve of queries in scope against those out of it, which stand at the end; ties count half."""
    within, outside = scores[:-OUTSIDE, None], scores[None, -OUTSIDE:]
    return ((within > outside) + 0.5 * (within == outside)).mean()


def judge(adaptation, distance):
    """Task loss with accuracy in scope, and the three scores; `distance` makes logits of class means distances."""

    def task_loss(params, task, key):
        adapted = adaptation.adapt(params, task.support, key)
        logits = linear(adapted, task.query.x)
        near = (
            logits - (seen(adapted, task.query.x) ** 2).sum(axis=1, keepdims=True)
            if distance
            else logits
        )
        scores = {
            "nearest": near.max(1),
            "energy": jax.nn.logsumexp(near, 1),
            "probability": jax.nn.softmax(logits).max(1),
        }
        right = (logits.argmax(axis=1) == task.query.y) * task.query.weight
        return jnp.zeros(()), {"accuracy": right.sum() / task.query.weight.sum()} | {
            name: area(score) for name, score in scores.items()
        }

    return jax.jit(lambda params, tasks: {
        name: one.mean for name, one in mj.evaluate(task_loss, params, tasks, key, tasks_at_once=50).items()
    })  # fmt: skip


means, regression = mj.prototypes(seen, WAYS), mj.ridge(seen, WAYS)
judge_means, judge_regression = judge(means, True), judge(regression, False)


def train(embed, params, data, write):
    """Params whose features answer 20-way 1-shot tasks of the training domains."""
    loss = mj.losses.cross_entropy(mj.linear_head(embed))
    adaptation = write(embed, 20)
    outer = mj.outer_loop(
        mj.query_loss(adaptation, loss),
        optax.adam(optax.cosine_decay_schedule(2e-3, options.steps)),
    )
    sample = mj.data.meta_batch(mj.data.episodes(20, 1, 4), tasks=1)
    plan = {"steps": options.steps, "fuse": 20, "every": options.steps, "progress": False}
    state, _ = mj.training.fit(
        outer, outer.init(adaptation.init(params, key)), sample, data, key, **plan
    )
    return state.params


def counts(rows):
    """The words of each text, weighed by how rare they are in `rows`, at length 1."""
    words = {
        word: number
        for number, word in enumerate(sorted({w for text in texts for w in text.split()}))
    }
    there = np.zeros((len(texts), len(words)), np.float32)
    for row, text in enumerate(texts):
        there[row, [words[word] for word in text.split()]] = 1
    there *= np.log((1 + len(rows)) / (1 + there[rows].sum(axis=0)))
    return there / np.maximum(np.linalg.norm(there, axis=1, keepdims=True), 1e-6)


def from_scratch(held_in):
    """Features of a net that reads pieces of words, all of it learned from the training domains."""
    rows = np.flatnonzero(held_in[label])
    tokenizer = mj.data.train_tokenizer([texts[row] for row in rows], size=VOCABULARY)
    tokens = mj.data.tokenize(tokenizer, texts, length=LENGTH, cut=True)
    data = mj.data.dataset(tokens[rows], np.unique(label[rows], return_inverse=True)[1])
    rngs = nnx.Rngs(0)
    reader = mj.nets.TemporalConv(
        WIDTH, WIDTH, width=WIDTH, blocks=2, stride=1, norm=mj.nets.GroupNorm, rngs=rngs
    )
    apply, params = mj.nets.functional(mj.nets.Text(VOCABULARY, reader, rngs=rngs))
    embed = lambda params, x, key=None, *, reference=None: apply(mj.Params(params.slow, {}), x)
    params = train(embed, mj.Params({}, params.fast), data, mj.prototypes)
    return jax.jit(
        lambda params, x: jax.lax.map(lambda part: embed(params, part), x.reshape(-1, 100, LENGTH))
    )(params, tokens).reshape(len(texts), -1)


def mapped(held_in, vectors, write):
    """The pretrained vectors through a linear map learned from the training domains, and the rule."""
    rows = np.flatnonzero(held_in[label])
    data = mj.data.dataset(vectors[rows], np.unique(label[rows], return_inverse=True)[1])
    embed = lambda params, x, key=None, *, reference=None: x @ params.slow
    params = train(embed, mj.Params({}, 4 * jnp.eye(vectors.shape[1])), data, write)
    return vectors @ params.slow, params.rule


try:
    vectors = jnp.asarray(sentence_features(texts))
    print(
        f"{len(texts)} texts through the pretrained encoder in {time.perf_counter() - started:.0f} s"
    )
except ImportError as error:
    print(f"Without the pretrained encoder: {error}")
    vectors = None

runs, digests = [], []
for split in range(options.splits):
    held_out = order[[(2 * split + step) % len(order) for step in (0, 3, 6)]]
    held_in = ~np.isin(domain, held_out)
    digests.append(
        mj.data.class_split(
            "domains", {"train": names[held_in].tolist(), "test": names[~held_in].tolist()}
        ).digest
    )
    features = {"counted words": (jnp.asarray(counts(np.flatnonzero(held_in[label]))), None)}
    features["net from scratch"] = from_scratch(held_in), None
    if vectors is not None:
        features["pretrained"] = vectors, None
        features["pretrained, map learned"] = mapped(held_in, vectors, mj.prototypes)[0], None
        features["pretrained, map and ridge"] = mapped(held_in, vectors, mj.ridge)
    run = {}
    for shots in (1, 5):
        tasks = draw(held_out, shots)
        for row, (table, rule) in features.items():
            one = judge_means if rule is None else judge_regression
            judged = one(mj.Params({}, table, () if rule is None else rule), tasks)
            run[shots, row] = {
                name: float(value) for name, value in judged.items() if name != "loss"
            }
    runs.append(run)
    print(
        f"split {split}: tested on {', '.join(held_out)}; {time.perf_counter() - started:.0f} s so far",
        flush=True,
    )


def summary(values):
    """Mean and half the width of the 95 % interval, in percent."""
    return [100 * float(number) for number in mj.summarize(jnp.asarray(values))[:2]]


of = lambda shots, row, name: np.array([run[shots, row][name] for run in runs])
scores, rows = ("nearest", "energy", "probability"), [row for shots, row in runs[0] if shots == 1]
table = {
    shots: {
        row: {name: summary(of(shots, row, name)) for name in ("accuracy", *scores)} for row in rows
    }
    for shots in (1, 5)
}
paired = {
    shots: {
        row: {
            name: summary(of(shots, row, name) - of(shots, "net from scratch", name))
            for name in ("accuracy", "nearest")
        }
        for row in rows
    }
    for shots in (1, 5)
}
for shots in table:
    print(
        f"\n{shots} shot{'s' * (shots > 1)}: accuracy in scope, and area under the ROC curve by score, %"
    )
    print(
        " " * 28
        + "".join(f"{name:>14}" for name in ("accuracy", *scores))
        + "   accuracy minus net from scratch"
    )
    for row in rows:
        shown = "".join("{:8.1f} ± {:3.1f}".format(*value) for value in table[shots][row].values())
        print(f"{row:<28}{shown}   {'{:+.1f} ± {:.1f}'.format(*paired[shots][row]['accuracy'])}")

took = time.perf_counter() - started
report = {
    "jax": jax.__version__,
    "device": jax.devices()[0].device_kind,
    "seconds": took,
    "splits": len(runs),
}
report |= {
    "tasks": options.tasks,
    "steps": options.steps,
    "ways": WAYS,
    "queries": QUERIES,
    "out of scope": OUTSIDE,
}
report["digests"] = digests
report |= {"rows": table, "minus net from scratch": paired}
(options.out / "intents.json").write_text(json.dumps(report, indent=1) + "\n")
figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
for axis, name, title in zip(
    axes, ("accuracy", "nearest"), ("5 new intents", "In scope or not"), strict=True
):
    measured = {
        f"{shots} shot{'s' * (shots > 1)}": {
            row: np.divide(table[shots][row][name], 100) for row in rows
        }
        for shots in table
    }
    mj.plots.accuracies(axis, measured, title=title)
axes[1].set(xlabel="area under the ROC curve of the nearest class, %", yticklabels=[])
figure.savefig(options.out / "intents.png", dpi=100)
print(f"{took:.0f} s; see {options.out / 'intents.png'} and intents.json.")
