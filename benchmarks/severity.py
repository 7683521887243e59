"""Accuracy against the severity of a corruption on real data, beside late fusion with equal weights, the baseline.

Reads data packs from the folder that METAJAX_DATA names. Encoders of two modalities are trained as prototypical
networks are, with late fusion or with a gate (`fusion.Gated`), on clean examples or on corrupted ones, some of which
lack a modality. Then one modality of a test task is corrupted, in its queries alone or in its shots too, at severities
from 0 to 1. Weights that are learned (`support_weights`) come from the shots; they are trained on validation tasks,
clean or corrupted. Which single modality is best is chosen on clean validation tasks. The rows: relative and effective
robustness, and accuracy at each severity; over splits of the digits, or over tasks for Omniglot.

    METAJAX_DATA=... python benchmarks/severity.py --data digits strokes
"""

import argparse
import json
import os
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
from metajax.data.tasks.drawing import rows_of
from metajax.modalities import corruptions
from metajax.modalities.measurement import known

WAYS, SHOTS, QUERIES, WIDTH, TASKS = 5, 5, 10, 32, 200
SEVERITIES = jnp.linspace(0.0, 1.0, 6)
BASELINE = "late fusion, equal weights"

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--data", nargs="+", default=["digits", "strokes"])
parser.add_argument(
    "--splits", type=int, help="splits of the digits, nets for Omniglot; 6 and 1 by default"
)
parser.add_argument(
    "--steps", type=int, help="steps of training the encoders, by default 150 and 300"
)
parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "results")
key = jax.random.key(0)


def image(seed):
    return mj.nets.Conv4(WIDTH, width=32, norm=mj.nets.GroupNorm, rngs=nnx.Rngs(seed))


def conv(channels, seed):
    return mj.nets.TemporalConv(
        channels, WIDTH, width=48, norm=mj.nets.GroupNorm, rngs=nnx.Rngs(seed + 1)
    )


def digits(split):
    """Written + spoken digits: half of them to train and, on other examples, to validate; the others to test."""
    order, data = (
        np.random.default_rng(split // 2).permutation(10),
        mj.data.paired_digits(seed=split // 2),
    )
    half, rows = (
        (order[:5], order[5:]) if split % 2 else (order[5:], order[:5]),
        np.arange(10 * 200) % 200,
    )
    take = lambda kept: mj.data.dataset(
        jax.tree.map(lambda leaf: np.asarray(leaf)[kept], data.x),
        np.unique(np.asarray(data.y)[kept], return_inverse=True)[1],
    )
    train, test = (np.isin(np.asarray(data.y), values) for values in half)
    named = ([data.names[value] for value in values] for values in half)
    classes = mj.data.class_split("digits", dict(zip(("train", "test"), named, strict=True)))
    return (
        take(train & (rows < 100)),
        take(train & (rows >= 100)),
        take(test & (rows < 100)),
    ), classes


def strokes(split):
    """Omniglot image + stroke: 5 alphabets to train, Balinese to validate, Sanskrit and Tagalog to test."""
    data, held_out = mj.data.omniglot_strokes(), (("Balinese",), ("Sanskrit", "Tagalog"))
    of = lambda alphabets: mj.data.select(data, lambda name: name.split("/")[0] in alphabets)
    train = mj.data.select(data, lambda name: name.split("/")[0] not in sum(held_out, ()))
    parts = train, *map(of, held_out)
    named = dict(zip(("train", "validation", "test"), parts, strict=True))
    return parts, mj.data.class_split("alphabets", named)


# {data: (parts and classes of a split, encoder and corruption of each modality, task, steps, splits, over splits)}
audio = lambda seed: mj.nets.Audio(conv(40, seed), rate=8000)
DATA = {
    "digits": (digits, {"image": image, "audio": audio}, (5, 1, 5), 150, 6, True),
    "strokes": (
        strokes,
        {"image": image, "stroke": lambda seed: conv(4, seed)},
        (10, 1, 4),
        300,
        1,
        False,
    ),
}
CORRUPTIONS = {"image": corruptions.image, "audio": corruptions.audio, "stroke": corruptions.stroke}


def trainer(task_loss, sample, rate, steps):
    """(params, dataset, key) -> params, compiled once for all splits."""
    outer = mj.outer_loop(task_loss, optax.adam(optax.cosine_decay_schedule(rate, steps)))

    def run(params, dataset, key):
        def step(state, key):
            draw_key, step_key = jax.random.split(key)
            return outer.step(state, sample(dataset, draw_key), step_key)[0], None

        return jax.lax.scan(step, outer.init(params), jax.random.split(key, steps))[0].params

    return jax.jit(run)


def harmed(sample, names):
    """((dataset, harm), key) -> a task; clean where harm is 0; where it is 1, two of three have a corrupted modality.

    The severity is uniform, the queries are corrupted, in half of the tasks the shots too; some queries lack one.
    """

    def draw(data, key):
        dataset, harm = data
        task_key, which_key, both_key, level_key, *keys = jax.random.split(key, 7)
        task, which = sample(dataset, task_key), jax.random.randint(which_key, (), 0, 3)
        level, both = harm * jax.random.uniform(level_key), jax.random.bernoulli(both_key)
        support, query = task.support.x, task.query.x
        for i, name in enumerate(names):
            only = {name: CORRUPTIONS[name]}
            support = modalities.corrupt(support, only, level * both * (which == i), keys[0])
            query = modalities.corrupt(query, only, level * (which == i), keys[1])
        query = modalities.drop_modalities(query, 0.1 * harm, keys[2])
        return task._replace(
            support=task.support._replace(x=support), query=task.query._replace(x=query)
        )

    return draw


def late_loss(apply, ways, names):
    """Both modalities by late fusion, and each alone; features are computed once."""
    loss = mj.losses.cross_entropy(modalities.late_head(known))

    def task_loss(params, task, key):
        encode = lambda batch: batch._replace(
            x=mj.Modalities(
                apply(mj.Params(params.slow, {}), batch.x, method="encode"), batch.x.present
            )
        )
        support, query = encode(task.support), encode(task.query)
        adapted = modalities.modal_prototypes(known, ways).adapt(params, support, key)
        total, metrics = loss(adapted, query, key)
        for name in names:
            here = query.x.present[name] * 1.0
            total += loss(
                adapted, query._replace(x=modalities.restrict(query.x, [name]), weight=here), key
            )[0]
        return total, metrics

    return task_loss


def gated_loss(apply, ways):
    """One net that fuses features before it compares."""
    embed = lambda params, x, key=None, *, reference=None: apply(mj.Params(params.slow, {}), x)
    return mj.query_loss(mj.prototypes(embed, ways), mj.losses.cross_entropy(mj.linear_head(embed)))


def features_of(apply, names):
    """(params, x, key) -> {name: [severities, n, WIDTH]}, every modality at every severity."""

    def run(params, x, key):
        encode = lambda x: apply(mj.Params(params.slow, {}), x, method="encode")
        return modalities.severity_curve(
            encode, x, {name: CORRUPTIONS[name] for name in names}, SEVERITIES, key
        )

    return jax.jit(
        lambda params, dataset, key: run(params, rows_of(dataset, jnp.arange(len(dataset.y))), key)
    )


def pick(levels, which, level):
    """{name: [n, WIDTH]}: the modality of that number at that level, the others clean."""
    return {
        name: levels[name][level * (which == number)] for number, name in enumerate(sorted(levels))
    }


def put(batch, x):
    """A batch of numbers of rows as one of the rows of x."""
    return batch._replace(x=jax.tree.map(lambda leaf: leaf[batch.x], x))


def all_of(value, present=None):
    """Examples with the modalities that `present` names, all by default."""
    ones = jnp.ones(len(next(iter(value.values()))), bool)
    return mj.Modalities(
        value, {name: ones & (True if present is None else present[name]) for name in value}
    )


def judge(task_loss, look):
    """(params, levels, tasks, present, which, both) -> accuracy [severities, tasks]."""

    def run(params, levels, tasks, present, which, both):
        def at(level):
            query, support = (
                look(params, pick(levels, which, at), present) for at in (level, level * both)
            )
            placed = tasks._replace(
                support=put(tasks.support, support), query=put(tasks.query, query)
            )
            return mj.evaluate(task_loss, params, placed, key)["accuracy"].per_task

        return jax.lax.map(at, jnp.arange(len(SEVERITIES)))

    return jax.jit(run)


def weigher(task_loss, names):
    """Learns weights on tasks of (levels, rows, harm): clean, or one modality at a random level, as in the test."""
    one = mj.data.episodes(WAYS, SHOTS, QUERIES)

    def sample(data, key):
        levels, rows, harm = data
        task_key, which_key, level_key, both_key = jax.random.split(key, 4)
        which, both = (
            jax.random.randint(which_key, (), 0, len(names)),
            jax.random.bernoulli(both_key),
        )
        level = harm * jax.random.randint(level_key, (), 0, len(SEVERITIES))
        query, support = (all_of(pick(levels, which, at)) for at in (level, level * both))
        task = one(rows, task_key)
        return mj.Task(put(task.support, support), put(task.query, query))

    return trainer(task_loss, mj.data.meta_batch(sample, 16), 1e-2, 200)


def programs(name, steps):
    """What is compiled once for all splits of a data set: nets with their training, weights, and judging."""
    _, encoders, sizes, *_ = DATA[name]
    names, one = sorted(encoders), mj.data.episodes(*sizes)
    fusions = {
        "late": mj.nets.fusion.mean,
        "gated": mj.nets.fusion.Gated(names, WIDTH, rngs=nnx.Rngs(7)),
    }
    nets, train = {}, {}
    for kind, fusion in fusions.items():
        made = {name: make(0) for name, make in encoders.items()}
        apply, params = mj.nets.functional(
            mj.nets.Multimodal(made, fusion, WIDTH, WIDTH, rngs=nnx.Rngs(8))
        )
        task_loss = (
            late_loss(apply, sizes[0], names) if kind == "late" else gated_loss(apply, sizes[0])
        )
        nets[kind] = mj.Params({}, params.fast), features_of(apply, names)
        train[kind] = trainer(task_loss, mj.data.meta_batch(harmed(one, names), 1), 3e-3, steps)
    loss = mj.losses.cross_entropy(modalities.late_head(known))
    write = modalities.modal_prototypes(known, WAYS)
    weigh = mj.chain(modalities.support_weights(known, WAYS), write)
    weighed = mj.query_loss(weigh, loss)
    fuse = lambda params, value: apply(mj.Params(params.slow, {}), all_of(value), method="decide")
    judges = {
        "late": judge(weighed, lambda params, value, present: all_of(value, present)),
        "gated": judge(
            mj.query_loss(write, loss),
            lambda params, value, present: all_of({"fused": fuse(params, value)}),
        ),
    }
    equal = weigh.init(mj.Params({"weights": dict.fromkeys(names, 0.0)}, ()), key)
    return nets, train, judges, weigher(weighed, names), equal


def measure(name, compiled, parts, start, split):
    """{row: {(corrupted modality, whether in the shots too): accuracy [severities, tasks]}} of one split."""
    nets, train, judges, learn, equal = compiled
    split_key, names = jax.random.fold_in(key, split), sorted(DATA[name][1])
    training, validation, test = parts
    numbered = [mj.data.dataset(np.arange(len(part.y)), part.y) for part in (validation, test)]
    draw = jax.jit(mj.data.meta_batch(mj.data.episodes(WAYS, SHOTS, QUERIES), TASKS))
    tasks = [draw(rows, jax.random.fold_in(split_key, i)) for i, rows in enumerate(numbered)]
    everything = dict.fromkeys(names, True)
    only = lambda name: {other: other == name for other in names}
    rows, panels = {}, [(which, both) for which in range(len(names)) for both in (0, 1)]

    def note(row, kind, params, levels, present=everything):
        rows[row] = {
            (names[w], bool(b)): judges[kind](params, levels, tasks[1], present, w, b)
            for w, b in panels
        }

    for kind, harm in ((kind, harm) for kind in train for harm in (0, 1)):
        begin, features = nets[kind]
        params = train[kind](
            begin._replace(slow=begin.slow | start(begin.slow)), (training, harm), split_key
        )
        levels = [features(params, part, split_key) for part in (validation, test)]
        ending = ", trained corrupted" * harm
        if kind == "gated":
            note("gated" + ending, kind, params, levels[1])
            continue
        note(BASELINE + ending, kind, equal, levels[1])
        weights = [learn(equal, (levels[0], numbered[0], h), split_key) for h in (harm, 1)]
        if harm:
            note("learned weights and encoders, trained corrupted", kind, weights[1], levels[1])
            continue
        note("learned weights", kind, weights[0], levels[1])
        note("learned weights, trained corrupted", kind, weights[1], levels[1])
        worth = {
            n: judges[kind](equal, levels[0], tasks[0], only(n), 0, 0)[0].mean() for n in names
        }
        note("best single modality", kind, equal, levels[1], only(max(names, key=worth.get)))
        for n in names:
            note(f"{n} alone", kind, equal, levels[1], only(n))
    return rows


def summary(values):
    """Mean and half the width of the 95 % interval, in percent."""
    return [100 * float(number) for number in mj.summarize(jnp.asarray(values))[:2]]


def report(name, runs):
    """One row of the result for each method and panel: over splits, or over the tasks of all nets."""
    over = lambda accuracy: (
        np.stack([a.mean(axis=1) for a in accuracy]) if DATA[name][5] else np.hstack(accuracy).T
    )
    result = []
    for panel in runs[0][BASELINE]:
        curves = {
            row: over([np.asarray(run[row][panel]) for run in runs]) for row in runs[0]
        }  # [cases, severities]
        for row, curve in curves.items():
            relative, effective = modalities.robustness(
                SEVERITIES, jnp.asarray(curve), jnp.asarray(curves[BASELINE])
            )
            result.append({
                "data": name, "corrupted": panel[0], "in the shots too": panel[1], "method": row,
                "accuracy": [summary(at) for at in curve.T],
                "relative robustness": summary(relative), "effective robustness": summary(effective),
            })  # fmt: skip
    return result


def look_at_characters(steps):
    """An image encoder that has learned to compare characters of Omniglot: five digits teach a picture too little."""
    apply, params = mj.nets.functional(image(0))
    embed = lambda params, x, key=None, *, reference=None: apply(mj.Params(params.slow, {}), x)
    task_loss = mj.query_loss(
        mj.prototypes(embed, 10), mj.losses.cross_entropy(mj.linear_head(embed))
    )
    learn = trainer(task_loss, mj.data.meta_batch(mj.data.episodes(10, 1, 4), 1), 3e-3, steps)
    return learn(mj.Params({}, params.fast), mj.data.omniglot(), key).slow


SHOWN = {
    BASELINE: "black", "best single modality": "C7", "learned weights": "C0",
    "learned weights, trained corrupted": "C2", "gated": "C1", "gated, trained corrupted": "C4",
    BASELINE + ", trained corrupted": "C3",
}  # fmt: skip


def plot(rows, path):
    """A panel for each data set, corrupted modality, and place of the corruption."""
    panels = list(dict.fromkeys((row["data"], row["corrupted"]) for row in rows))
    figure, axes = plt.subplots(
        2, len(panels), figsize=(4 * len(panels), 8), layout="constrained", sharey="col"
    )
    for axis, (both, (name, corrupted)) in zip(
        axes.flat, ((both, panel) for both in (False, True) for panel in panels), strict=True
    ):
        for row in rows:
            here = (row["data"], row["corrupted"], row["in the shots too"]) == (
                name,
                corrupted,
                both,
            )
            if here and row["method"] in SHOWN:
                mean, half = np.array(row["accuracy"]).T
                axis.plot(
                    SEVERITIES, mean, color=SHOWN[row["method"]], marker="o", label=row["method"]
                )
                axis.fill_between(
                    SEVERITIES, mean - half, mean + half, color=SHOWN[row["method"]], alpha=0.1
                )
        where = "queries and shots" if both else "queries"
        axis.set(
            title=f"{name}: {corrupted} of {where}",
            xlabel="severity",
            ylabel="accuracy, %",
            ylim=(15, 100),
        )
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *axes.flat[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    figure.savefig(path, dpi=100)


def main(options):
    options.out.mkdir(parents=True, exist_ok=True)
    started, rows, number, digests = time.perf_counter(), [], {}, {}
    for name in options.data:
        make, _, _, steps, splits, _ = DATA[name]
        steps, number[name] = options.steps or steps, options.splits or splits
        compiled, runs = programs(name, steps), []
        eye = look_at_characters(2 * steps) if name == "digits" else None
        start = lambda slow, eye=eye: (
            {} if eye is None else {"encoders": slow["encoders"] | {"image": eye}}
        )
        for split in range(number[name]):
            parts, classes = make(split)
            digests.setdefault(name, []).append(classes.digest)
            runs.append(measure(name, compiled, parts, start, split))
            print(
                f"{name}, split {split}, {time.perf_counter() - started:.0f} s so far", flush=True
            )
        rows += report(name, runs)
        header = {
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "threads": os.cpu_count(),
            "seconds": time.perf_counter() - started,
            "sizes": {"splits": number, "tasks": TASKS, "ways": WAYS, "shots": SHOTS},
            "digests": digests,
            "severities": SEVERITIES.tolist(),
        }
        (options.out / "severity.json").write_text(
            json.dumps({**header, "rows": rows}, indent=1) + "\n"
        )
        plot(rows, options.out / "severity.png")
        show([row for row in rows if row["data"] == name])


def show(rows):
    """The table: accuracy at the ends, and both kinds of robustness with their intervals."""
    for row in rows:
        where = f"{row['data']}, {row['corrupted']}{' everywhere' * row['in the shots too']}"
        first, last = row["accuracy"][0][0], row["accuracy"][-1][0]
        robust = "   ".join(
            "{:+5.1f} ± {:3.1f}".format(*row[f"{kind} robustness"])
            for kind in ("relative", "effective")
        )
        print(f"{where:<28}{row['method']:<46}{first:5.1f} -> {last:5.1f}   {robust}")


if __name__ == "__main__":
    main(parser.parse_args())
