"""One task's accuracy, predicted from its support set: how well, and with what probabilities.

A net is trained for each kind of data and each of four learners: class means, class means with a
calibration error in the outer loss, ridge regression, descent of the head. On tasks of test
classes, with 1, 5 and 10 shots, the predicted accuracy is set against that on 15 queries a class
(100 of CLINC150), or as many as the class has. With few queries the accuracy itself is uncertain:
"floor" is the mean error of a perfect prediction.

- constant: the mean accuracy of validation tasks, which is what a benchmark says;
- held out: the share of the support set that is right where it is left out (`trust`);
- learned: a predictor from statistics of the support set, fitted to validation tasks.

Beside it, each with what it learns from validation tasks: the gain of five more labels a class;
calibration as it is, with the temperature of validation tasks, with one that statistics of the
support set predict, and with one of the task's own; coverage and size of prediction sets; errors
where the least sure answers are left out; and how well queries of no class are told from others:
characters or letters of other classes, and the sentences that CLINC150 has for this. Digits have
few classes: three ways, and intervals over three splits.

Rows are added to benchmarks/results/single_tasks.json, so that a run that was stopped goes on.
Draws single_tasks.png.

METAJAX_DATA=folder python benchmarks/single_tasks.py
METAJAX_DATA=folder python benchmarks/single_tasks.py --data Omniglot --steps 200 --out /tmp/results
METAJAX_DATA=folder python benchmarks/single_tasks.py --tiny --out /tmp/results    # that it runs
"""

import argparse
import functools
import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import metajax as mj
from metajax import diagnostics, nets

WAYS, MORE, WIDTH = 5, 5, 32
SHOTS = (1, 5, 10)
LEFT_OUT = 0.25  # how often a modality is missing, where there are two
KEY = jax.random.key(0)
parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)


class Setting(NamedTuple):
    """One kind of data.

    Attributes:
        parts: {part: data set}, the parts "train", "validation" and "test".
        digest: of the split.
        make_net: () -> a net with the methods `embed` and `__call__`.
        outside: {part: features of queries of no class}; None takes queries of other classes, and
            an empty dict none.
        ways: classes of a task.
        more: labels of each class that are added to see what they gain.
        queries: of each class, or as many as it has.
    """

    parts: dict
    digest: str
    make_net: Callable
    outside: dict | None = None
    ways: int = WAYS
    more: int = MORE
    queries: int = 15


def image_net():
    """Its statistics are of each image alone: a query must not know what else is asked."""
    return nets.Conv4(WAYS, width=WIDTH, norm=nets.GroupNorm, rngs=nnx.Rngs(0))


def characters(seed):
    """Omniglot."""
    source = mj.data.omniglot()
    sizes = {"train": 1100, "validation": 100, "test": 423}
    split = mj.data.draw_split(source.names, sizes, seed=seed)
    return Setting(parts(source, split), split.digest, image_net)


def drawings(seed):
    """Omniglot, image + stroke; one of them is missing in four of ten examples."""
    source = mj.data.omniglot_strokes()
    x = mj.modalities.drop_modalities(source.x, LEFT_OUT, jax.random.key(seed))
    source = mj.data.dataset(x, source.y, names=source.names, scale=source.scale)
    held_out = {"validation": ("Balinese",), "test": ("Sanskrit", "Tagalog")}
    of = lambda alphabets: lambda name: mj.data.group_of(name) in alphabets
    predicates = {part: of(alphabets) for part, alphabets in held_out.items()}
    predicates["train"] = lambda name: not of(sum(held_out.values(), ()))(name)
    split = mj.data.class_split("alphabets", predicates, source.names)
    return Setting(parts(source, split), split.digest, pair_net)


def pair_net():
    rngs = nnx.Rngs(0)
    encoders = {
        "image": nets.Conv4(WIDTH, width=WIDTH, norm=nets.GroupNorm, rngs=rngs),
        "stroke": nets.TemporalConv(4, WIDTH, rngs=rngs),
    }
    return nets.Multimodal(encoders, nets.fusion.mean, WIDTH, WAYS, rngs=rngs)


def letters(seed):
    """Printed letters; scripts that were not seen."""
    source = mj.data.glyphs()
    split = mj.data.split_scripts(
        source, train=["Latin"], validation=["Armenian", "Georgian"], test=["Greek", "Cyrillic"]
    )
    # The smallest class has twelve drawings: two queries are left with ten shots.
    return Setting(parts(source, split), split.digest, image_net, more=0)


def intents(seed):
    """CLINC150, frozen features of sentences; domains that were not seen."""
    sentences, names = mj.data.clinc150_texts("train")
    classes, labels = np.unique(names, return_inverse=True)
    vectors = np.asarray(nets.sentence_features(sentences))
    source = mj.data.dataset(vectors, labels, names=classes.tolist())
    sizes = {"train": 5, "validation": 2, "test": 3}
    split = mj.data.draw_split(source.names, sizes, group=mj.data.group_of, seed=seed)
    outside = {
        part: jnp.asarray(nets.sentence_features(mj.data.clinc150_texts(name)[0]))
        for part, name in {"validation": "oos_val", "test": "oos_test"}.items()
    }
    make_net = lambda: Perceptron(vectors.shape[1])
    return Setting(parts(source, split), split.digest, make_net, outside, queries=100)


def sounds(seed):
    """Spoken digits: four to train, three to validate and three to test."""
    source = mj.data.spoken_digits()
    sizes = {"train": 4, "validation": 3, "test": 3}
    split = mj.data.draw_split(source.names, sizes, seed=seed)
    return Setting(parts(source, split), split.digest, Sounds, {}, ways=3)


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
        self.head = nnx.Linear(WIDTH, 3, rngs=rngs)

    def embed(self, x):
        """Recordings [n, samples] -> features."""
        return self.body(x)

    def __call__(self, x):
        """Recordings [n, samples] -> logits."""
        return self.head(self.embed(x))


DATA = {
    "Omniglot": characters,
    "image + stroke": drawings,
    "letters": letters,
    "CLINC150": intents,
    "spoken digits": sounds,
}
"""{data: seed of the split -> Setting}."""
SPLITS = {"spoken digits": 3}
"""How many splits of the classes, if more than one."""


class Head(NamedTuple):
    """How a task is learned.

    Attributes:
        adaptation: (features of examples, ways) -> adaptation.
        loss: the loss of the outer loop.
    """

    adaptation: Callable
    loss: Callable = mj.losses.cross_entropy


HEADS = {
    "class means": Head(mj.prototypes),
    "class means, calibrated": Head(mj.prototypes, mj.losses.calibrated_cross_entropy),
    "ridge": Head(mj.ridge),
    "descent": Head(
        lambda embed, ways: mj.inner_loop(
            mj.losses.cross_entropy(mj.linear_head(embed)), optax.sgd(0.5), steps=5
        )
    ),
}

parser.add_argument("--data", nargs="+", choices=DATA, default=[*DATA])
parser.add_argument("--heads", nargs="+", choices=HEADS, default=[*HEADS])
parser.add_argument("--steps", type=int, default=600)
parser.add_argument("--tests", type=int, default=600)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def trained(setting, head, steps):
    """(features of examples, the params of the head) after so many steps."""
    apply, params = nets.functional(setting.make_net())
    embed = functools.partial(apply, method="embed")
    params = nets.split_params(params, lambda path: path.startswith("head"))
    adaptation = head.adaptation(embed, setting.ways)
    task_loss = mj.query_loss(adaptation, head.loss(mj.linear_head(embed)))
    loop = mj.outer_loop(task_loss, optax.adam(optax.cosine_decay_schedule(2e-3, steps)))
    sample = mj.data.meta_batch(mj.data.episodes(setting.ways, 5, 5), tasks=4)
    state, _ = mj.training.fit(
        loop,
        loop.init(adaptation.init(params, KEY)),
        sample,
        setting.parts["train"],
        KEY,
        steps=steps,
        every=steps,
        progress=False,
    )
    of_head = mj.Params({"head": state.params.fast["head"]}, {}, state.params.rule)
    return jax.jit(functools.partial(embed, state.params)), of_head


def embedded(embed, support, *inputs):
    """The support set, and other inputs, as features."""
    return support._replace(x=embed(support.x)), *map(embed, inputs)


def sampler(ways, shots, more, queries, has_others):
    """Tasks, the same with more shots, and queries of other classes."""
    classes = (2 if has_others else 1) * ways
    sample = mj.data.episodes(classes, shots + more, queries)

    def draw(source, key):
        task = sample(source, key)
        each = np.arange(classes * (shots + more)).reshape(classes, -1)[:ways]
        of = np.arange(classes * queries).reshape(2 if has_others else 1, -1)
        take = lambda batch, rows: mj.inner.take(batch, jnp.asarray(rows.ravel()))
        few, many = take(task.support, each[:, :shots]), take(task.support, each)
        others = take(task.query, of[1]).x if has_others else None
        return few, many, take(task.query, of[0]), others

    return draw


def measured(embed, of_head, head, setting, part, sizes, tests):
    """What is known of each task, leaves [tasks, ...]."""
    adaptation = head.adaptation(nets.identity_encoder, setting.ways)
    apply, outside = mj.linear_head(nets.identity_encoder), setting.outside
    draw = sampler(setting.ways, *sizes, has_others=outside is None)

    def one(key):
        draw_key, other_key = jax.random.split(key)
        few, many, query, others = draw(setting.parts[part], draw_key)
        few, features = embedded(embed, few, query.x)
        many, number = many._replace(x=embed(many.x)), len(query.y)
        if outside:
            available = len(outside[part])
            rows = jax.random.choice(other_key, available, (min(number, available),), replace=False)
            others = outside[part][rows]
        if others is not None:
            features = jnp.concatenate([features, embed(others)])
        held_out = diagnostics.cross_predict(adaptation, apply, of_head, few, KEY, queries=features)
        logits = held_out.answers[:number]
        sets = diagnostics.conformal_sets(held_out)[:number]
        of_many = mj.predict(adaptation, apply, of_head, many, features[:number], KEY)
        right = lambda logits: (logits.argmax(axis=1) == query.y).mean()
        return {
            "true": right(logits),
            "after": right(of_many),
            "trust": diagnostics.trust(held_out),
            "statistics": diagnostics.support_statistics(held_out),
            "left out": held_out.support,
            "usable": held_out.usable,
            "support y": few.y,
            "logits": logits,
            "y": query.y,
            "covered": jnp.take_along_axis(sets, query.y[:, None], axis=1).mean(),
            "size": sets.sum(axis=1).mean(),
            "scope": diagnostics.scope_scores(held_out.answers, features, few),
        }

    return jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(KEY, tests))


def compare(validation, test, has_more):
    """The row of the table."""
    true = test["true"]
    predictor = diagnostics.fit_predictor(validation["statistics"], validation["true"])
    learned, low, high = diagnostics.predict_accuracy(predictor, test["statistics"])
    predicted = {"constant": jnp.full_like(true, predictor.mean), "learned": learned}
    if not jnp.isnan(test["trust"].accuracy).any():
        predicted["held out"] = test["trust"].accuracy
    inside = lambda low, high: cell((low <= true) & (true <= high))
    row = {"accuracy": cell(true), "worst tenth": cell_of(mj.summarize(true).lowest)}
    row["predictions"] = errors(predicted, true)
    row["interval of trust"] = inside(test["trust"].low, test["trust"].high)
    row["interval of the predictor"] = inside(low, high)
    # The mean of |error| of a normal distribution is √(2 / π) of its deviation.
    row["floor"] = float(jnp.sqrt(2 / jnp.pi * true * (1 - true) / test["y"].shape[1]).mean())
    rest = calibration(validation, test) | answered(test) | scope(validation, test)
    if not has_more:
        return row | rest
    gain = lambda found: found["after"] - found["true"]
    of_gain = diagnostics.fit_predictor(validation["statistics"], gain(validation))
    gains, *_ = diagnostics.predict_accuracy(of_gain, test["statistics"])
    constant = jnp.full_like(true, of_gain.mean)
    row["gain of more labels"] = {
        "gain": cell(gain(test)),
        **errors({"constant": constant, "learned": gains}, gain(test)),
    }
    return row | rest


def errors(predicted, true):
    """{prediction: its mean error, the same minus that of the constant, and the correlation}."""
    base = jnp.abs(predicted["constant"] - true)
    rows = {}
    for name, values in predicted.items():
        gap = jnp.abs(values - true)
        rows[name] = {"error": cell(gap), "minus constant": cell(gap - base)}
        if name != "constant":
            rows[name]["correlation"] = correlation(values, true)
    return rows


def calibration(validation, test):
    """Expected calibration errors with each temperature, pooled over tasks and by task."""
    ways = test["logits"].shape[2]
    flat = lambda found: (found["logits"].reshape(-1, ways), found["y"].reshape(-1))
    shared = diagnostics.best_temperature(*flat(validation))
    own = jax.vmap(
        lambda logits, y, usable: diagnostics.best_temperature(
            logits, y, weight=usable.astype(logits.dtype), centre=shared, strength=5.0
        )
    )(test["left out"], test["support y"], test["usable"])
    predictor = diagnostics.fit_temperature(
        validation["statistics"], validation["logits"], validation["y"]
    )
    predicted = diagnostics.predict_temperature(predictor, test["statistics"])
    temperatures = {
        "none": 1.0,
        "shared": shared,
        "predicted": predicted[:, None, None],
        "own": own[:, None, None],
    }
    rows = {"temperature": float(shared), "calibration": {}}
    for name, scale in temperatures.items():
        share = jax.nn.softmax(test["logits"] / scale)
        pooled = share.reshape(-1, ways), test["y"].reshape(-1)
        by_task = jax.vmap(lambda p, y: diagnostics.reliability(p, y).error)
        own_y = jnp.take_along_axis(share, test["y"][..., None], axis=2)[..., 0]
        rows["calibration"][name] = {
            "pooled": float(diagnostics.reliability(*pooled).error),
            "by task": cell(by_task(share, test["y"])),
            "Brier": cell(jax.vmap(diagnostics.brier_score)(share, test["y"])),
            "log loss": cell(-jnp.log(jnp.maximum(own_y, 1e-12)).mean(axis=1)),
        }
    rows["sets"] = {"covered": cell(test["covered"]), "size": cell(test["size"])}
    return rows


def answered(test):
    """The share of wrong answers among the surest, and the area under that curve by task."""
    sure = jax.nn.softmax(test["logits"]).max(axis=2)
    right = test["logits"].argmax(axis=2) == test["y"]
    pooled = diagnostics.risk_coverage(sure.reshape(-1), right.reshape(-1))
    area = jax.vmap(lambda *of: diagnostics.risk_coverage(*of).area)(sure, right)
    at = lambda share: float(pooled.risk[int(share * len(pooled.risk)) - 1])
    return {
        "risk": {f"{share:.0%}": at(share) for share in (0.5, 0.8, 0.9, 1.0)},
        "area": cell(area),
        "area minus error": cell(area - (1 - test["true"])),
    }


def scope(validation, test):
    """The AUROC of queries of a class against others, for each score; nothing without others."""
    own = test["y"].shape[1]
    if next(iter(test["scope"].values())).shape[1] == own:
        return {}

    def inside(found):
        tasks, total = next(iter(found["scope"].values())).shape
        return jnp.broadcast_to(jnp.arange(total) < own, (tasks, total))

    flat = lambda scores: {name: values.reshape(-1) for name, values in scores.items()}
    known = diagnostics.fit_scope(flat(validation["scope"]), inside(validation).reshape(-1))
    scores = test["scope"] | {"learned": diagnostics.in_scope(known, test["scope"])}
    return {
        "out of scope": {
            name: cell(jax.vmap(diagnostics.auroc)(values, inside(test)))
            for name, values in scores.items()
        }
    }


def cell(values):
    """[mean, half of its 95 % interval]."""
    return cell_of(mj.summarize(jnp.asarray(values, float)))


def cell_of(summary):
    return [float(summary.mean), float(summary.interval)]


def correlation(one, other):
    """[Pearson's r, half of its 95 % interval by Fisher's transformation]."""
    r = np.corrcoef(one, other)[0, 1]
    ends = np.tanh(np.arctanh(r) + np.array([-1.96, 1.96]) / np.sqrt(len(one) - 3))
    return [float(r), float(np.ptp(ends) / 2)]


def over_splits(rows):
    """The mean of each figure over splits of the classes; its interval is over them."""
    first = rows[0]
    if isinstance(first, dict):
        return {name: over_splits([row[name] for row in rows]) for name in first}
    return cell([row[0] for row in rows]) if isinstance(first, list) else float(np.mean(rows))


def of_split(make, head, options, shots, seed):
    """({shots: row}, digest) of one split of the classes."""
    setting = make(seed)
    steps, tests = options
    embed, of_head = trained(setting, head, steps)
    fewest = min(int(setting.parts[part].count.min()) for part in ("validation", "test"))
    rows = {}
    for number in shots:
        queries = min(setting.queries, fewest - number - setting.more)
        sizes = number, setting.more, queries
        both = (
            measured(embed, of_head, head, setting, part, sizes, tests)
            for part in ("validation", "test")
        )
        rows[number] = {"queries": queries, **compare(*both, setting.more > 0)}
    return rows, setting.digest


def draw(rows):
    """Errors of predictions against that of the constant, and errors among the surest answers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    *plots, last = figure.subplots(1, 3)
    for axis, name in zip(plots, ("held out", "learned"), strict=True):
        for data, heads in rows.items():
            found = [row["predictions"] for shots in heads.values() for row in shots.values()]
            found = [one for one in found if name in one]
            points = [(100 * one["constant"]["error"][0], one[name]["error"][0]) for one in found]
            if points:
                x, y = np.array(points).T
                axis.plot(x, 100 * y, "o", label=data)
        axis.axline((0, 0), slope=1, color="grey", linewidth=1)
        axis.set_title(f"accuracy predicted: {name}")
        axis.set_xlabel("error of the constant, points of accuracy")
        axis.set_ylabel("error of the prediction")
    plots[0].legend()
    for data, heads in rows.items():
        row = list(next(iter(heads.values())).values())[-1]
        share = [float(name.strip("%")) for name in row["risk"]]
        last.plot(share, [100 * risk for risk in row["risk"].values()], "o-", label=data)
    last.set_title(f"{next(iter(heads))}, most shots")
    last.set_xlabel("answered, the surest first, %")
    last.set_ylabel("of these wrong, %")
    return figure


def main(options):
    steps, tests, shots = (2, 5, (1, 2)) if options.tiny else (options.steps, options.tests, SHOTS)
    path = options.out / "single_tasks.json"
    report = json.loads(path.read_text()) if path.exists() else {"rows": {}, "digests": {}}
    if report.get("steps", steps) != steps or report.get("tests", tests) != tests:
        raise SystemExit(f"{path} is of other --steps or --tests; give another --out.")
    report.update(harness.header(seed=0, steps=steps, tests=tests))
    for data in options.data:
        rows = report["rows"].setdefault(data, {})
        for head in options.heads:
            if head in rows:
                continue
            splits = range(1 if options.tiny else SPLITS.get(data, 1))
            found, digests = zip(
                *(of_split(DATA[data], HEADS[head], (steps, tests), shots, s) for s in splits),
                strict=True,
            )
            rows[head] = found[0]
            if len(found) > 1:
                rows[head] = {k: over_splits([one[k] for one in found]) for k in found[0]}
            report["digests"][data] = list(digests)
            print(data, head, json.dumps(rows[head]), flush=True)
            harness.save(options.out, "single_tasks", report)
    draw(report["rows"]).savefig(options.out / "single_tasks.png", dpi=100)


if __name__ == "__main__":
    main(parser.parse_args())
