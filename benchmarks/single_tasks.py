"""One task's accuracy, predicted from its support set: how well, and with what probabilities.

A net is trained for each kind of data and each of three heads (class means, ridge regression,
descent of the head). On tasks of test classes, with 1, 5 and 10 shots, the predicted accuracy is
set against that on 15 queries a class, or as many as the class has:

- constant: the mean accuracy of validation tasks, which is what a benchmark says;
- held out: the share of the support set that is right where it is left out (`trust`);
- learned: a predictor from statistics of the support set, fitted to validation tasks.

Beside it: calibration before and after the best temperature of validation tasks, coverage and size
of prediction sets, and accuracy where the least sure answers are left out. Rows are added to
benchmarks/results/single_tasks.json, so that a run that was stopped goes on.

METAJAX_DATA=folder python benchmarks/single_tasks.py
METAJAX_DATA=folder python benchmarks/single_tasks.py --data Omniglot --steps 200 --out /tmp/results
METAJAX_DATA=folder python benchmarks/single_tasks.py --tiny --out /tmp/results    # that it runs
"""

import argparse
import functools
import json
import pathlib

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import metajax as mj
from metajax import diagnostics, nets

WAYS, MOST_QUERIES, WIDTH = 5, 15, 32
KEY = jax.random.key(0)
parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)


def characters():
    """Omniglot."""
    source = mj.data.omniglot()
    sizes = {"train": 1100, "validation": 100, "test": 423}
    split = mj.data.draw_split(source.names, sizes)
    return (
        parts(source, split),
        split.digest,
        lambda: nets.Conv4(WAYS, width=WIDTH, rngs=nnx.Rngs(0)),
    )


def letters():
    """Printed letters; scripts that were not seen."""
    source = mj.data.glyphs()
    split = mj.data.split_scripts(
        source, train=["Latin"], validation=["Armenian", "Georgian"], test=["Greek", "Cyrillic"]
    )
    return (
        parts(source, split),
        split.digest,
        lambda: nets.Conv4(WAYS, width=WIDTH, rngs=nnx.Rngs(0)),
    )


def intents():
    """CLINC150, frozen features of sentences; domains that were not seen."""
    sentences, names = mj.data.clinc150_texts("train")
    classes, labels = np.unique(names, return_inverse=True)
    vectors = np.asarray(nets.sentence_features(sentences))
    source = mj.data.dataset(vectors, labels, names=classes.tolist())
    sizes = {"train": 5, "validation": 2, "test": 3}
    split = mj.data.draw_split(source.names, sizes, group=mj.data.group_of)
    width = vectors.shape[1]
    return parts(source, split), split.digest, lambda: Perceptron(width)


def sounds():
    """Spoken digits: five to train and, on other recordings, to validate; five to test."""
    source = mj.data.spoken_digits()
    split = mj.data.draw_split(source.names, {"train": 5, "test": 5})
    found = {part: mj.data.select_part(source, split, part) for part in ("train", "test")}
    labels = np.asarray(found["train"].y)
    is_kept = np.arange(len(labels)) % 4 < 3
    rows = lambda mask: mj.data.dataset(
        np.asarray(found["train"].x)[mask], labels[mask], scale=found["train"].scale
    )
    found |= {"train": rows(is_kept), "validation": rows(~is_kept)}
    return found, split.digest, lambda: Sounds()


def parts(source, split):
    return {part: mj.data.select_part(source, split, part) for part in split.parts}


class Perceptron(nnx.Module):
    """A hidden layer on features, and a head."""

    def __init__(self, inputs):
        rngs = nnx.Rngs(0)
        self.body = nets.MLP(inputs, (4 * WIDTH,), 2 * WIDTH, rngs=rngs)
        self.head = nnx.Linear(2 * WIDTH, WAYS, rngs=rngs)

    def embed(self, x):
        """[n, inputs] -> features."""
        return self.body(x)

    def __call__(self, x):
        """[n, inputs] -> logits."""
        return self.head(self.embed(x))


class Sounds(nnx.Module):
    """Convolutions over the spectrum of recordings, and a head."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.body = nets.Audio(nets.TemporalConv(40, WIDTH, rngs=rngs), rate=8000)
        self.head = nnx.Linear(WIDTH, WAYS, rngs=rngs)

    def embed(self, x):
        """Recordings [n, samples] -> features."""
        return self.body(x)

    def __call__(self, x):
        """Recordings [n, samples] -> logits."""
        return self.head(self.embed(x))


DATA = {
    "Omniglot": characters,
    "letters": letters,
    "CLINC150": intents,
    "spoken digits": sounds,
}
HEADS = {
    "class means": lambda embed: mj.prototypes(embed, WAYS),
    "ridge": lambda embed: mj.ridge(embed, WAYS),
    "descent": lambda embed: mj.inner_loop(
        mj.losses.cross_entropy(mj.linear_head(embed)), optax.sgd(0.5), steps=5
    ),
}
"""{head: features of examples -> adaptation}."""

parser.add_argument("--data", nargs="+", choices=DATA, default=[*DATA])
parser.add_argument("--heads", nargs="+", choices=HEADS, default=[*HEADS])
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--tests", type=int, default=600)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def trained(net, head, source, steps):
    """(features of examples, the params of the head) after so many steps."""
    apply, params = nets.functional(net)
    embed = functools.partial(apply, method="embed")
    params = nets.split_params(params, lambda path: path.startswith("head"))
    adaptation = HEADS[head](embed)
    task_loss = mj.query_loss(adaptation, mj.losses.cross_entropy(mj.linear_head(embed)))
    loop = mj.outer_loop(task_loss, optax.adam(optax.cosine_decay_schedule(2e-3, steps)))
    sample = mj.data.meta_batch(mj.data.episodes(WAYS, 5, 5), tasks=4)
    state, _ = mj.training.fit(
        loop,
        loop.init(adaptation.init(params, KEY)),
        sample,
        source,
        KEY,
        steps=steps,
        every=steps,
        progress=False,
    )
    of_head = mj.Params({"head": state.params.fast["head"]}, {}, state.params.rule)
    return functools.partial(embed, state.params), of_head


def measured(embed, of_head, head, tasks):
    """What is known of each task, leaves [tasks, ...]."""
    adaptation, apply = HEADS[head](nets.identity_encoder), mj.linear_head(nets.identity_encoder)

    def one(task):
        support = task.support._replace(x=embed(task.support.x))
        queries = embed(task.query.x)
        about = adaptation, apply, of_head, support, KEY
        found = diagnostics.trust(*about)
        held_out = diagnostics.cross_predict(*about, queries=queries)
        logits = mj.predict(adaptation, apply, of_head, support, queries, KEY)
        sets = diagnostics.conformal_sets(held_out, support.y)
        return {
            "true": (logits.argmax(axis=1) == task.query.y).mean(),
            "trust": found._replace(held_out=()),
            "statistics": diagnostics.support_statistics(*about),
            "logits": logits,
            "y": task.query.y,
            "covered": jnp.take_along_axis(sets, task.query.y[:, None], axis=1).mean(),
            "size": sets.sum(axis=1).mean(),
        }

    return jax.jit(lambda tasks: jax.lax.map(one, tasks))(tasks)


def compare(validation, test):
    """The row of the table: errors of predicted accuracies, calibration, sets."""
    true = test["true"]
    predictor = diagnostics.fit_predictor(validation["statistics"], validation["true"])
    learned, half = diagnostics.predict_accuracy(predictor, test["statistics"])
    predicted = {"constant": jnp.full_like(true, predictor.mean), "learned": learned}
    if not jnp.isnan(test["trust"].accuracy).any():
        predicted["held out"] = test["trust"].accuracy
    base = jnp.abs(predicted["constant"] - true)
    row = {"accuracy": cell(true), "predictions": {}}
    for name, values in predicted.items():
        gap = jnp.abs(values - true)
        row["predictions"][name] = {
            "error": cell(gap),
            "minus constant": cell(gap - base),
            "correlation": correlation(values, true),
        }
    inside = lambda low, high: cell(((low <= true) & (true <= high)).astype(float))
    row["interval of trust"] = inside(test["trust"].low, test["trust"].high)
    row["interval of the predictor"] = inside(learned - half, learned + half)
    flat = lambda found: (found["logits"].reshape(-1, WAYS), found["y"].reshape(-1))
    temperature = diagnostics.best_temperature(*flat(validation))
    row["temperature"] = float(temperature)
    for name, scale in {"before": 1.0, "after": temperature}.items():
        share = jax.nn.softmax(test["logits"] / scale)
        pooled = share.reshape(-1, WAYS), test["y"].reshape(-1)
        row[f"calibration {name}"] = {
            "pooled": float(diagnostics.reliability(*pooled).error),
            "by task": cell(
                jax.vmap(lambda p, y: diagnostics.reliability(p, y).error)(share, test["y"])
            ),
            "Brier": cell(jax.vmap(diagnostics.brier_score)(share, test["y"])),
        }
    row["sets"] = {"covered": cell(test["covered"]), "size": cell(test["size"])}
    top = jax.nn.softmax(test["logits"]).max(axis=2).reshape(-1)
    order = jnp.argsort(-top)
    right = (test["logits"].argmax(axis=2) == test["y"]).reshape(-1)[order]
    row["answered"] = {
        f"{share:.0%}": float(right[: int(share * len(right))].mean()) for share in (0.5, 0.8, 1.0)
    }
    return row


def cell(values):
    """[mean, half of its 95 % interval]."""
    summary = mj.summarize(values)
    return [float(summary.mean), float(summary.interval)]


def correlation(one, other):
    """[Pearson's r, ends of its 95 % interval]; None of a constant."""
    if np.ptp(np.asarray(one)) < 1e-6:
        return None
    r = np.corrcoef(one, other)[0, 1]
    ends = np.tanh(np.arctanh(r) + np.array([-1.96, 1.96]) / np.sqrt(len(one) - 3))
    return [float(r), *ends.tolist()]


def main(options):
    steps, tests, shots = (
        (2, 5, (1, 2)) if options.tiny else (options.steps, options.tests, (1, 5, 10))
    )
    path = options.out / "single_tasks.json"
    report = json.loads(path.read_text()) if path.exists() else {"rows": {}, "digests": {}}
    report.update(harness.header(seed=0, steps=steps, tests=tests))
    for data in options.data:
        sources, report["digests"][data], make_net = DATA[data]()
        for head in options.heads:
            rows = report["rows"].setdefault(data, {})
            if head in rows:
                continue
            embed, of_head = trained(make_net(), head, sources["train"], steps)
            found = {}
            for number in shots:
                fewest = min(int(sources[part].count.min()) for part in ("validation", "test"))
                queries = min(MOST_QUERIES, fewest - number)
                sample = mj.data.meta_batch(mj.data.episodes(WAYS, number, queries), tests)
                both = (jax.jit(sample)(sources[part], KEY) for part in ("validation", "test"))
                row = compare(*(measured(embed, of_head, head, one) for one in both))
                found[number] = {"queries": queries, **row}
                print(data, head, number, found[number], flush=True)
            rows[head] = found
            harness.save(options.out, "single_tasks", report)


if __name__ == "__main__":
    main(parser.parse_args())
