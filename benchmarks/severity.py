"""Accuracy against the severity of a corruption on real data, beside late fusion.

Reads data files from the folder that METAJAX_DATA names. Encoders of two modalities are trained as
prototypical networks are, with late fusion or with a gate (`fusion.Gated`), on clean examples or on
corrupted ones, some of which lack a modality. Then one modality of a test task is corrupted, in its
queries alone or in its shots too, at severities from 0 to 1. Learned weights (`support_weights`)
come from the shots; they are trained on validation tasks, clean or corrupted. The best single
modality is chosen on clean validation tasks. The rows are relative and effective robustness beside
late fusion with equal weights, and accuracy at each severity; over splits of the digits, or over
tasks for Omniglot. Writes benchmarks/results/severity.json and .png.

METAJAX_DATA=folder python benchmarks/severity.py --data digits strokes
"""

import argparse
import functools
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import metajax as mj
from metajax import modalities
from metajax.modalities import corruptions

WAYS, SHOTS, QUERIES, WIDTH, TASKS = 5, 5, 10, 32, 200
SEVERITIES = jnp.linspace(0.0, 1.0, 6)
BASELINE = "late fusion, equal weights"
KEY = jax.random.key(0)

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--data", nargs="+", default=["digits", "strokes"])
parser.add_argument("--splits", type=int, help="splits of digits, nets for Omniglot: 6 and 1")
parser.add_argument("--steps", type=int, help="steps of training the encoders: 150 and 300")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


class Setting(NamedTuple):
    """One data set.

    Attributes:
        make: number of a split -> ((train, validation, test), split of the classes).
        encoders: {modality: seed -> module}.
        sizes: ways, shots and queries of the training tasks.
        steps: of training the encoders.
        splits: number of splits of the classes, or of nets where there is one split only.
        over_splits: whether intervals are over splits, and not over tasks.
    """

    make: Callable
    encoders: dict
    sizes: tuple
    steps: int
    splits: int
    over_splits: bool


def image(seed):
    return mj.nets.Conv4(WIDTH, width=32, norm=mj.nets.GroupNorm, rngs=nnx.Rngs(seed))


def temporal(channels, seed):
    rngs = nnx.Rngs(seed + 1)
    return mj.nets.TemporalConv(channels, WIDTH, width=48, norm=mj.nets.GroupNorm, rngs=rngs)


def stroke(seed):
    return temporal(4, seed)


def audio(seed):
    return mj.nets.Audio(temporal(40, seed), rate=8000)


def digits(number):
    """Written + spoken digits: half to train and, on other examples, to validate; half to test."""
    seed, second = divmod(number, 2)
    order = np.random.default_rng(seed).permutation(10)
    source = mj.data.paired_digits(seed=seed)
    train_digits, test_digits = (order[:5], order[5:]) if second else (order[5:], order[:5])
    labels = np.asarray(source.y)
    first_half = np.arange(len(labels)) % 200 < 100
    train = np.isin(labels, train_digits)
    test = np.isin(labels, test_digits)
    masks = train & first_half, train & ~first_half, test & first_half
    names = {
        "train": [source.names[digit] for digit in train_digits],
        "test": [source.names[digit] for digit in test_digits],
    }
    parts = tuple(keep_rows(source, mask) for mask in masks)
    return parts, mj.data.class_split("digits", names)


def keep_rows(source, mask):
    """The rows in the mask as a data set, with the labels of the classes that are left."""
    x = jax.tree.map(lambda leaf: np.asarray(leaf)[mask], source.x)
    _, labels = np.unique(np.asarray(source.y)[mask], return_inverse=True)
    return mj.data.dataset(x, labels, scale=source.scale)


def strokes(number):
    """Omniglot image + stroke: Balinese to validate, Sanskrit and Tagalog to test, 5 to train."""
    source = mj.data.omniglot_strokes()
    held_out = {"validation": ("Balinese",), "test": ("Sanskrit", "Tagalog")}
    others = sum(held_out.values(), ())
    alphabet = lambda name: name.split("/")[0]
    split = mj.data.class_split(
        "alphabets",
        {
            "train": lambda name: alphabet(name) not in others,
            "validation": lambda name: alphabet(name) in held_out["validation"],
            "test": lambda name: alphabet(name) in held_out["test"],
        },
        source.names,
    )
    parts = [mj.data.select_part(source, split, part) for part in split.parts]
    return tuple(parts), split


DATA = {
    "digits": Setting(digits, {"image": image, "audio": audio}, (5, 1, 5), 150, 6, True),
    "strokes": Setting(strokes, {"image": image, "stroke": stroke}, (10, 1, 4), 300, 1, False),
}
CORRUPTIONS = {"image": corruptions.image, "audio": corruptions.audio, "stroke": corruptions.stroke}


def with_slow(apply, **options):
    """The network of weights in `params.slow`, which no adaptation rewrites."""

    def network(params, x):
        return apply(mj.Params(params.slow, {}), x, **options)

    return mj.nets.from_function(network)[0]


def trainer(task_loss, sample, rate, steps):
    """(params, dataset, key) -> params, compiled once for all splits."""
    outer = mj.outer_loop(task_loss, optax.adam(optax.cosine_decay_schedule(rate, steps)))

    def run(params, dataset, key):
        def step(state, key):
            draw_key, step_key = jax.random.split(key)
            state, _ = outer.step(state, sample(dataset, draw_key), step_key)
            return state, None

        state, _ = jax.lax.scan(step, outer.init(params), jax.random.split(key, steps))
        return state.params

    return jax.jit(run)


def corrupted_tasks(sample, names):
    """((dataset, harm), key) -> a task.

    Where harm is 0 the task is clean. Where it is 1, two of three tasks have a corrupted modality:
    the severity is uniform, the queries are corrupted, and in half of the tasks the shots too. Some
    queries lack a modality.
    """

    def draw(source, key):
        dataset, harm = source
        task_key, which_key, both_key, level_key, *keys = jax.random.split(key, 7)
        task = sample(dataset, task_key)
        which = jax.random.randint(which_key, (), 0, 3)
        level = harm * jax.random.uniform(level_key)
        both = jax.random.bernoulli(both_key)
        support = task.support.x
        query = task.query.x
        for number, name in enumerate(names):
            one = {name: CORRUPTIONS[name]}
            here = level * (which == number)
            support = modalities.corrupt(support, one, level * both * (which == number), keys[0])
            query = modalities.corrupt(query, one, here, keys[1])
        query = modalities.drop_modalities(query, 0.1 * harm, keys[2])
        return task._replace(
            support=task.support._replace(x=support), query=task.query._replace(x=query)
        )

    return draw


def late_loss(apply, ways, names):
    """The loss by late fusion of all modalities, and by each of them alone."""
    loss = mj.losses.cross_entropy(modalities.late_head(mj.nets.identity_encoder))
    write = modalities.modal_prototypes(mj.nets.identity_encoder, ways)
    encode = with_slow(apply, method="encode")

    def encoded(params, batch):
        return batch._replace(x=mj.Modalities(encode(params, batch.x), batch.x.present))

    def task_loss(params, task, key):
        support = encoded(params, task.support)
        query = encoded(params, task.query)
        adapted = write.adapt(params, support, key)
        total, metrics = loss(adapted, query, key)
        for name in names:
            here = query.x.present[name] * 1.0
            alone = query._replace(x=modalities.restrict(query.x, [name]), weight=here)
            value, _ = loss(adapted, alone, key)
            total += value
        return total, metrics

    return task_loss


def gated_loss(embed, ways):
    """The loss of one net that fuses features before it compares."""
    head = mj.linear_head(embed)
    return mj.query_loss(mj.prototypes(embed, ways), mj.losses.cross_entropy(head))


def all_levels(apply, names):
    """(params, dataset, key) -> {name: [severities, n, WIDTH]}: features at every severity."""
    encode = with_slow(apply, method="encode")
    mine = {name: CORRUPTIONS[name] for name in names}

    @jax.jit
    def run(params, dataset, key):
        x = mj.data.take_examples(dataset, jnp.arange(len(dataset.y)))
        features = functools.partial(encode, params)
        return modalities.severity_curve(features, x, mine, SEVERITIES, key)

    return run


def pick(levels, which, level):
    """{name: [n, WIDTH]}: modality number `which` at this level, the others clean."""
    names = sorted(levels)
    return {name: levels[name][level * (which == number)] for number, name in enumerate(names)}


def fill_in(batch, x):
    """A batch of row numbers as a batch of these rows of x."""
    return batch._replace(x=jax.tree.map(lambda leaf: leaf[batch.x], x))


def as_examples(value, present=None):
    """Features as modalities, of which those are present that `present` says, by default all."""
    ones = jnp.ones(len(next(iter(value.values()))), bool)
    if present is None:
        present = dict.fromkeys(value, True)
    return mj.Modalities(value, {name: ones & present[name] for name in value})


def accuracy_of(task_loss, see):
    """(params, levels, tasks, present, which, both) -> accuracy [severities, tasks].

    Args:
        task_loss: of tasks of features.
        see: (params, features, present) -> what the task loss reads of the features.
    """

    @jax.jit
    def run(params, levels, tasks, present, which, both):
        def at(level):
            query = see(params, pick(levels, which, level), present)
            support = see(params, pick(levels, which, level * both), present)
            filled = tasks._replace(
                support=fill_in(tasks.support, support), query=fill_in(tasks.query, query)
            )
            return mj.evaluate(task_loss, params, filled, KEY)["accuracy"].per_task

        return jax.lax.map(at, jnp.arange(len(SEVERITIES)))

    return run


def weight_trainer(task_loss, names):
    """Learns weights on tasks of (levels, rows, harm).

    Tasks are clean, or one modality is at a random level, as in the test.
    """
    draw_rows = mj.data.episodes(WAYS, SHOTS, QUERIES)

    def sample(source, key):
        levels, rows, harm = source
        task_key, which_key, level_key, both_key = jax.random.split(key, 4)
        which = jax.random.randint(which_key, (), 0, len(names))
        both = jax.random.bernoulli(both_key)
        level = harm * jax.random.randint(level_key, (), 0, len(SEVERITIES))
        query = as_examples(pick(levels, which, level))
        support = as_examples(pick(levels, which, level * both))
        task = draw_rows(rows, task_key)
        return mj.Task(fill_in(task.support, support), fill_in(task.query, query))

    return trainer(task_loss, mj.data.meta_batch(sample, 16), 1e-2, 200)


class Programs(NamedTuple):
    """What is compiled once for all splits of a data set.

    Attributes:
        start: {kind of fusion: params where training starts}.
        levels: {kind: (params, dataset, key) -> features at every severity}.
        train: {kind: (params, (dataset, harm), key) -> params}.
        accuracy: {kind: as `accuracy_of` makes it}.
        learn_weights: as `weight_trainer` makes it.
        equal: params of equal weights, where learning them starts.
    """

    start: dict
    levels: dict
    train: dict
    accuracy: dict
    learn_weights: Callable
    equal: mj.Params


def make_net(setting, fusion):
    """(apply, params) of one net, all of it slow."""
    encoders = {name: make(0) for name, make in setting.encoders.items()}
    net = mj.nets.Multimodal(encoders, fusion, WIDTH, WIDTH, rngs=nnx.Rngs(8))
    apply, params = mj.nets.functional(net)
    return apply, mj.Params({}, params.fast)


def compile_programs(setting, steps):
    names = sorted(setting.encoders)
    ways = setting.sizes[0]
    sample = corrupted_tasks(mj.data.episodes(*setting.sizes), names)
    sample = mj.data.meta_batch(sample, 1)
    gate = mj.nets.fusion.Gated(names, WIDTH, rngs=nnx.Rngs(7))
    late, late_start = make_net(setting, mj.nets.fusion.mean)
    gated, gated_start = make_net(setting, gate)
    train = {
        "late": trainer(late_loss(late, ways, names), sample, 3e-3, steps),
        "gated": trainer(gated_loss(with_slow(gated), ways), sample, 3e-3, steps),
    }

    known = mj.nets.identity_encoder
    loss = mj.losses.cross_entropy(modalities.late_head(known))
    write = modalities.modal_prototypes(known, WAYS)
    weigh = mj.chain(modalities.support_weights(known, WAYS), write)
    weighted = mj.query_loss(weigh, loss)
    decide = with_slow(gated, method="decide")

    def see_features(params, value, present):
        return as_examples(value, present)

    def see_fused(params, value, present):
        return as_examples({"fused": decide(params, as_examples(value))})

    zeros = mj.Params({"modality_weights": dict.fromkeys(names, 0.0)}, ())
    return Programs(
        start={"late": late_start, "gated": gated_start},
        levels={"late": all_levels(late, names), "gated": all_levels(gated, names)},
        train=train,
        accuracy={
            "late": accuracy_of(weighted, see_features),
            "gated": accuracy_of(mj.query_loss(write, loss), see_fused),
        },
        learn_weights=weight_trainer(weighted, names),
        equal=weigh.init(zeros, KEY),
    )


def measure(setting, programs, parts, pretrained, number):
    """{method: {(corrupted modality, whether in the shots too): accuracy}} of one split.

    Accuracies are [severities, tasks].
    """
    key = jax.random.fold_in(KEY, number)
    names = sorted(setting.encoders)
    training, validation, test = parts
    validation_rows = mj.data.dataset(np.arange(len(validation.y)), validation.y)
    test_rows = mj.data.dataset(np.arange(len(test.y)), test.y)
    draw = jax.jit(mj.data.meta_batch(mj.data.episodes(WAYS, SHOTS, QUERIES), TASKS))
    validation_tasks = draw(validation_rows, jax.random.fold_in(key, 0))
    test_tasks = draw(test_rows, jax.random.fold_in(key, 1))
    everything = dict.fromkeys(names, True)
    equal = programs.equal
    rows = {}

    def learn(kind, harm):
        """Trained encoders, and features of validation and test examples."""
        start = programs.start[kind]
        start = start._replace(slow=start.slow | pretrained(start.slow))
        params = programs.train[kind](start, (training, harm), key)
        see = programs.levels[kind]
        return params, see(params, validation, key), see(params, test, key)

    def note(method, kind, params, levels, present=everything):
        rows[method] = {}
        for which, name in enumerate(names):
            for both in (0, 1):
                accuracy = programs.accuracy[kind](params, levels, test_tasks, present, which, both)
                rows[method][name, bool(both)] = accuracy

    def weights(levels, harm):
        return programs.learn_weights(equal, (levels, validation_rows, harm), key)

    _, seen, levels = learn("late", 0)
    note(BASELINE, "late", equal, levels)
    note("learned weights", "late", weights(seen, 0), levels)
    note("learned weights, trained corrupted", "late", weights(seen, 1), levels)
    alone = {name: {other: other == name for other in names} for name in names}
    validated = {}
    for name in names:
        accuracy = programs.accuracy["late"](equal, seen, validation_tasks, alone[name], 0, 0)
        validated[name] = accuracy[0].mean()
    best = max(names, key=validated.get)
    note("best single modality", "late", equal, levels, alone[best])
    for name in names:
        note(f"{name} alone", "late", equal, levels, alone[name])

    _, seen, levels = learn("late", 1)
    note(f"{BASELINE}, trained corrupted", "late", equal, levels)
    method = "learned weights and encoders, trained corrupted"
    note(method, "late", weights(seen, 1), levels)

    for harm, method in enumerate(("gated", "gated, trained corrupted")):
        params, _, levels = learn("gated", harm)
        note(method, "gated", params, levels)
    return rows


def summary(values):
    """Mean and half the width of the 95 % interval, in percent."""
    mean, half = mj.summarize(jnp.asarray(values))[:2]
    return [100 * float(mean), 100 * float(half)]


def report(name, runs):
    """One row of the result for each method and panel."""

    def curve(method, panel):
        """Accuracy [cases, severities]; cases are splits, or the tasks of all nets."""
        accuracy = [np.asarray(run[method][panel]) for run in runs]
        if DATA[name].over_splits:
            return np.stack([one.mean(axis=1) for one in accuracy])
        return np.hstack(accuracy).T

    rows = []
    for panel in runs[0][BASELINE]:
        baseline = jnp.asarray(curve(BASELINE, panel))
        for method in runs[0]:
            accuracy = curve(method, panel)
            robustness = modalities.robustness(SEVERITIES, jnp.asarray(accuracy), baseline)
            rows.append(
                {
                    "data": name,
                    "corrupted": panel[0],
                    "in the shots too": panel[1],
                    "method": method,
                    "accuracy": [summary(level) for level in accuracy.T],
                    "relative robustness": summary(robustness.relative),
                    "effective robustness": summary(robustness.effective),
                }
            )
    return rows


def pretrain_image_encoder(steps):
    """Weights of an image encoder that has learned to compare characters of Omniglot.

    The five digits of training have too few classes for an image encoder.
    """
    apply, params = mj.nets.functional(image(0))
    embed = with_slow(apply)
    loss = mj.losses.cross_entropy(mj.linear_head(embed))
    task_loss = mj.query_loss(mj.prototypes(embed, 10), loss)
    learn = trainer(task_loss, mj.data.meta_batch(mj.data.episodes(10, 1, 4), 1), 3e-3, steps)
    return learn(mj.Params({}, params.fast), mj.data.omniglot(), KEY).slow


def start_of(name, steps):
    """A function of slow weights: those of them that start from a pretrained encoder."""
    if name != "digits":
        return lambda slow: {}
    weights = pretrain_image_encoder(2 * steps)
    return lambda slow: {"encoders": slow["encoders"] | {"image": weights}}


def plot(rows, path):
    """Accuracy of every method, clean and at the largest severity, of what is in the queries."""
    import matplotlib
    from matplotlib.figure import Figure

    shown = [row for row in rows if not row["in the shots too"]]
    columns = list(dict.fromkeys((row["data"], row["corrupted"]) for row in shown))
    methods = list(dict.fromkeys(method_label(row) for row in shown))
    with matplotlib.rc_context(dict(mj.plots.STYLE)):
        figure = Figure(figsize=(2.6 + 2.7 * len(columns), 4.6))
        panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axis, (name, corrupted) in zip(panels, columns, strict=True):
            rows_here = {}  # {method: accuracy at each severity}
            for row in shown:
                if (row["data"], row["corrupted"]) == (name, corrupted):
                    rows_here[method_label(row)] = row["accuracy"]
            measured = {
                "clean": {method: rows_here[method][0] for method in methods},
                "corrupted most": {method: rows_here[method][-1] for method in methods},
            }
            title = f"{name}: {corrupted} of queries"
            mj.plots.dot_plot(
                axis, measured, xlabel="accuracy, %", limits=(0, 100), reference=20.0, title=title
            )
        for axis in panels[1:]:
            axis.get_legend().remove()
        text = "grey line: chance; 95 % intervals over splits of the classes, or over test tasks"
        figure.supxlabel(f"{text} where there is one split", fontsize=8, color="0.4")
        figure.savefig(path)


def method_label(row):
    """The name of a method, with "corrupted" or "other" in the place of a modality."""
    name, alone, _ = row["method"].partition(" alone")
    if not alone:
        return row["method"]
    return "corrupted modality alone" if name == row["corrupted"] else "other modality alone"


def show(rows):
    """The table: accuracy at both ends, and both kinds of robustness with their intervals."""
    for row in rows:
        where = f"{row['data']}, {row['corrupted']}{' everywhere' * row['in the shots too']}"
        first = row["accuracy"][0][0]
        last = row["accuracy"][-1][0]
        robust = []
        for kind in ("relative", "effective"):
            robust.append("{:+5.1f} ± {:3.1f}".format(*row[f"{kind} robustness"]))
        values = f"{first:5.1f} -> {last:5.1f}   {'   '.join(robust)}"
        print(f"{where:<28}{row['method']:<46}{values}")


def main(options):
    started = time.perf_counter()
    rows = []
    splits = {}
    digests = {}
    for name in options.data:
        setting = DATA[name]
        steps = options.steps or setting.steps
        splits[name] = options.splits or setting.splits
        digests[name] = []
        programs = compile_programs(setting, steps)
        pretrained = start_of(name, steps)
        runs = []
        for number in range(splits[name]):
            parts, split = setting.make(number)
            digests[name].append(split.digest)
            runs.append(measure(setting, programs, parts, pretrained, number))
            seconds = time.perf_counter() - started
            print(f"{name}, split {number}, {seconds:.0f} s so far", flush=True)
        mine = report(name, runs)
        rows += mine
        result = harness.brief_header() | {
            "seconds": time.perf_counter() - started,
            "sizes": {"splits": splits, "tasks": TASKS, "ways": WAYS, "shots": SHOTS},
            "digests": digests,
            "severities": SEVERITIES.tolist(),
            "rows": rows,
        }
        harness.save(options.out, "severity", result)
        plot(rows, options.out / "severity.png")
        show(mine)


if __name__ == "__main__":
    main(parser.parse_args())
