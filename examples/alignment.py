"""Strokes named from images only: cross-modal generalisation by alignment, and a rich modality that teaches a poor one.

Reads `omniglot_strokes.npz` from the folder that METAJAX_DATA names. Five alphabets are learned, Balinese serves to
choose settings, Sanskrit and Tagalog are the test. In a task of 5 characters labels are given for 1 or 5 images each,
and 10 drawings, 2 of each character, are there as image and stroke together, but nobody says of which character. The
query is strokes alone. CroMA learns to align the two modalities from those pairs; it is compared, on the same tasks,
with the same net that was trained to align without adapting, with its adaptation that was never trained for, with a net
that knows nothing but the pairs, with pairs that are used as a bridge between two nets of one modality each, and with
what could be had were the strokes of the pairs labelled.

Then distillation: only 2 drawings of each training character have strokes, and an encoder of images, which saw all 20,
teaches the encoder of strokes. Intervals are 95 %, over tasks, of one net each and one choice of classes.

    METAJAX_DATA=... python examples/alignment.py --out .
"""

import argparse
import functools
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
from metajax.modalities import distill_features, distill_logits, info_nce, pair_loss
from metajax.modalities.heads import scores

WAYS, SHOTS, PAIRS, QUERIES, WIDTH, SHARPNESS = 5, (1, 5), 2, 5, 32, 3.0

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument(
    "--steps", type=int, default=400, help="steps of training for each net, a multiple of 10"
)
parser.add_argument("--tasks", type=int, default=200, help="test tasks, and validation tasks")
parser.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path(), help="folder of alignment.json and .png"
)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)
key, started = jax.random.key(0), time.perf_counter()
cache = tempfile.TemporaryDirectory()  # students are taught by one program, compiled once
jax.config.update("jax_compilation_cache_dir", cache.name)

# Data.
held_out = {"validation": ("Balinese",), "test": ("Sanskrit", "Tagalog")}
drawings = mj.data.omniglot_strokes()
alphabet = np.array([name.split("/")[0] for name in drawings.names])
validation, test = (
    mj.data.select(drawings, np.isin(alphabet, names)) for names in held_out.values()
)
train = mj.data.select(drawings, ~np.isin(alphabet, sum(held_out.values(), ())))


def draw(part, number, seed):
    """Tasks in which each character has 5 labelled drawings, then 2 pairs, then queries."""
    sample = mj.data.meta_batch(mj.data.episodes(WAYS, max(SHOTS) + PAIRS, QUERIES), number)
    return jax.jit(sample)(part, jax.random.key(seed))


def across(task, shots):
    """The task of this example: labels for `shots` images, pairs without (label -1 is no class), queries of strokes."""
    support, query = task.support, task.query
    place = jnp.arange(len(support.y)) % (len(support.y) // WAYS)
    pair = place >= len(support.y) // WAYS - PAIRS
    x = support.x._replace(present={"image": jnp.ones_like(pair), "stroke": pair})
    counted = (pair | (place < shots)).astype(jnp.float32)
    support = support._replace(x=x, y=jnp.where(pair, -1, support.y), weight=counted)
    return task._replace(
        support=support, query=query._replace(x=mj.modalities.restrict(query.x, ["stroke"]))
    )


# Nets: the body of each encoder is slow, a linear map of its features to a common space is fast.
def make(seed):
    rngs = nnx.Rngs(seed)
    encoders = {
        "image": mj.nets.Conv4(WIDTH, width=WIDTH, rngs=rngs),
        "stroke": mj.nets.TemporalConv(4, WIDTH, width=48, rngs=rngs),
    }
    made = {name: mj.nets.functional(encoder) for name, encoder in encoders.items()}
    maps = {name: jnp.eye(WIDTH) for name in made}
    return (
        {name: apply for name, (apply, _) in made.items()},
        mj.Params(
            {"map": maps}, {"body": {name: params.fast for name, (_, params) in made.items()}}
        ),
    )


bodies, start = make(0)


def unit(features):
    return features / jnp.sqrt((features**2).sum(axis=1, keepdims=True) + 1e-6)


def see(body, x, reference, names=("image", "stroke")):
    """Features of the bodies in the place of inputs; those of other names are zero."""
    value = {name: jnp.zeros((len(x.present[name]), WIDTH)) for name in x.value}
    for name in names:
        here = x.present[name] if reference is None else x.present[name] & (reference > 0)
        value[name] = unit(bodies[name](mj.Params(body[name], {}), x.value[name], reference=here))
    return x._replace(value=value)


def encode(params, x, key=None, *, reference=None):
    """The unit sphere where image and stroke are to meet: {name: [n, width]}."""
    return {name: unit(x.value[name] @ params.fast["map"][name]) for name in x.value}


def encode_whole(params, x, key=None, *, reference=None):
    """The same from inputs, with bodies that are fast, too."""
    return encode(params, see(params.fast["body"], x, reference))


def one(name):
    """The embedding of one modality."""
    return lambda params, x, key=None, *, reference=None: (
        SHARPNESS * encode(params, x, reference=reference)[name]
    )


# Learners. The last that each does is to write prototypes; all are asked for strokes.
contrast = functools.partial(info_nce, temperature=0.1)
loss = mj.losses.cross_entropy(mj.linear_head(one("stroke")))
write = {name: mj.prototypes(one(name), WAYS) for name in bodies}


aligned = mj.inner_loop(pair_loss(encode, "image", "stroke", contrast), mj.leaf_rates(0.3), steps=5)
croma, without = mj.chain(aligned, write["image"]), mj.chain(mj.identity(), write["image"])


def on_features(task_loss):
    """Of a task of inputs; bodies run once and not at every step of an inner loop."""

    def whole(params, task, key):
        support, query = task.support, task.query
        support = support._replace(x=see(params.slow["body"], support.x, support.weight))
        query = query._replace(x=see(params.slow["body"], query.x, None, ["stroke"]))
        return task_loss(params, task._replace(support=support, query=query), key)

    return whole


def learn(task_loss, params, sample, number, part=train):
    outer = mj.outer_loop(task_loss, optax.adam(optax.cosine_decay_schedule(3e-3, options.steps)))
    state, _ = mj.training.fit(
        outer, outer.init(params), mj.data.meta_batch(sample, number), part, key, steps=options.steps, fuse=10,
        every=options.steps, progress=False,
    )  # fmt: skip
    print(f"{time.perf_counter() - started:.0f} s so far", flush=True)
    return state.params


def pairs_of(part, key):
    """A task of this example, labels for one image of each character."""
    return across(mj.data.episodes(WAYS, 1 + PAIRS, QUERIES)(part, key), 1)


def apart(params, task, key):
    """Each modality by itself, from labels, 10-way."""
    total, ways = jnp.zeros(()), len(task.support.y)
    see_all = lambda batch: batch._replace(x=see(params.slow["body"], batch.x, None))
    support, query = see_all(task.support), see_all(task.query)
    for name in bodies:
        alone = mj.query_loss(
            mj.prototypes(one(name), ways), mj.losses.cross_entropy(mj.linear_head(one(name)))
        )
        value, metrics = alone(params, mj.Task(support, query), key)
        total += value
    return total, metrics


def bridge(params, support, key):
    """Strokes of the pairs, labelled with what their images look like, by the labelled images."""
    answers = mj.linear_head(one("image"))(
        write["image"].adapt(params, support, key), support.x
    ).argmax(axis=1)
    pair = support.x.present["stroke"]
    return write["stroke"].adapt(
        params, support._replace(y=answers.astype(jnp.int32), weight=pair * 1.0), key
    )


learned = {
    "croma": learn(on_features(mj.query_loss(croma, loss)), croma.init(start, key), pairs_of, 8),
    "joint": learn(
        on_features(mj.query_loss(without, loss)), without.init(start, key), pairs_of, 8
    ),
    "apart": learn(apart, start, mj.data.episodes(10, 1, 2), 4),
}


# Judged on the same tasks, with 1 and with 5 labelled images. Bodies run once for each net, by one program for all.
@jax.jit
def look(params, tasks):
    """Features of the tasks of this example, by number of shots."""

    def of_task(task, shots):
        task = across(task, shots)
        support = task.support._replace(
            x=see(params.slow["body"], task.support.x, task.support.weight)
        )
        return task._replace(
            support=support,
            query=task.query._replace(x=see(params.slow["body"], task.query.x, None, ["stroke"])),
        )

    return {
        k: jax.lax.map(functools.partial(of_task, shots=k), tasks, batch_size=10) for k in SHOTS
    }


def compiled(adaptation):
    """(params, tasks of features) -> the accuracy of each task."""
    task_loss = mj.query_loss(adaptation, loss)
    return jax.jit(
        lambda params, tasks: mj.evaluate(task_loss, params, tasks, key)["accuracy"].per_task
    )


def judge(run, params, seen):
    return {k: np.asarray(run(params, seen[k])) for k in SHOTS}


def mean(judged):
    return np.mean(list(judged.values()))


def best(what, scores):
    """The setting with the highest accuracy on validation tasks, over both numbers of shots."""
    print(what, {name: round(100 * float(score), 1) for name, score in scores.items()}, flush=True)
    return max(scores, key=scores.get)


tasks = {"validation": draw(validation, options.tasks, 1), "test": draw(test, options.tasks, 2)}
seen = {name: look(params, tasks["test"]) for name, params in learned.items()}
run = {
    name: compiled(a)
    for name, a in {
        "croma": croma,
        "joint": without,
        "bridge": mj.Adaptation(croma.init, bridge),
    }.items()
}
accuracy = {
    "CroMA": judge(run["croma"], learned["croma"], seen["croma"]),
    "joint alignment": judge(run["joint"], learned["joint"], seen["joint"]),
    "pairs as a bridge": judge(run["bridge"], learned["apart"], seen["apart"]),
}

# Joint alignment that is adapted without having been trained for it: CroMA's adaptation, with rates that are chosen.
at_rate = lambda rate: learned["joint"]._replace(
    rule=jax.tree.map(lambda leaf: jnp.full_like(leaf, rate), learned["croma"].rule)
)
on_validation = look(learned["joint"], tasks["validation"])
tried = {
    rate: mean(judge(run["croma"], at_rate(rate), on_validation)) for rate in (0.03, 0.1, 0.3, 1.0)
}
rate = best("rate after joint alignment", tried)
accuracy["joint, then adapted"] = judge(run["croma"], at_rate(rate), seen["joint"])

# From scratch: all weights of a new net, from the 10 pairs alone.
pair_rows = (
    np.arange(WAYS)[:, None] * (max(SHOTS) + PAIRS) + max(SHOTS) + np.arange(PAIRS)[None]
).reshape(-1)
adam = mj.Rule(
    lambda params, key: {"rate": jnp.asarray(1e-3)}, lambda rule: optax.adam(rule["rate"])
)
inner = mj.inner_loop(
    pair_loss(encode_whole, "image", "stroke", contrast),
    adam,
    steps=10,
    differentiate=mj.first_order(),
)


@jax.jit
def from_scratch(rate, tasks):
    """{shots: accuracy}: the net that has seen the pairs, then prototypes."""
    params = mj.Params({"map": start.fast["map"], "body": start.slow["body"]}, (), {"rate": rate})

    def of_task(task):
        fast = inner.adapt(params, mj.take(across(task, 1).support, pair_rows), key).fast
        new = mj.Params({"map": fast["map"]}, {"body": fast["body"]}, ((), ()))
        seen = look(new, jax.tree.map(lambda leaf: leaf[None], task))
        return {
            k: mj.query_loss(without, loss)(new, jax.tree.map(lambda leaf: leaf[0], seen[k]), key)[
                1
            ]["accuracy"]
            for k in SHOTS
        }

    return jax.lax.map(of_task, tasks, batch_size=10)


tried = {rate: mean(from_scratch(rate, tasks["validation"])) for rate in (1e-3, 1e-2)}
accuracy["from scratch"] = from_scratch(best("rate from scratch", tried), tasks["test"])


# Strokes among themselves: from 1 and from 5 labelled strokes of each character, and from those of the pairs.
@jax.jit
def of_strokes(params, tasks):
    place = np.arange(WAYS * (max(SHOTS) + PAIRS)) % (max(SHOTS) + PAIRS)

    def of_task(task):
        answers = {}
        query = task.query._replace(x=see(params.slow["body"], task.query.x, None, ["stroke"]))
        for name, rows in {**{k: place < k for k in SHOTS}, 0: place >= max(SHOTS)}.items():
            few = mj.take(task.support, np.flatnonzero(rows))
            few = few._replace(x=see(params.slow["body"], few.x, None, ["stroke"]))
            answers[name] = mj.query_loss(write["stroke"], loss)(params, mj.Task(few, query), key)[
                1
            ]["accuracy"]
        return answers

    return jax.lax.map(of_task, tasks, batch_size=10)


labelled = of_strokes(learned["apart"], tasks["test"])
accuracy["labelled strokes"] = dict.fromkeys(SHOTS, labelled[0])


def summary(values):
    """Mean and half the width of the 95 % interval, in percent."""
    return [100 * float(number) for number in mj.summarize(jnp.asarray(values))[:2]]


def table(title, judged, less, sign):
    """Prints accuracies and the paired difference to one row, and keeps them."""
    for shots in SHOTS:
        print(f"\n{title.format(shots)}")
        for row, values in judged.items():
            difference = summary(
                sign * (np.asarray(values[shots]) - np.asarray(judged[less][shots]))
            )
            cell = {"accuracy": summary(values[shots]), "difference": difference}
            report.setdefault(less, {}).setdefault(row, {})[shots] = cell
            print(
                "{:<22} {:5.1f} ± {:.1f}   {:+.1f} ± {:.1f}".format(
                    row, *summary(values[shots]), *difference
                )
            )
    print(f"{time.perf_counter() - started:.0f} s so far", flush=True)


report = {}
order = (
    "CroMA",
    "joint alignment",
    "joint, then adapted",
    "from scratch",
    "pairs as a bridge",
    "labelled strokes",
)
accuracy = {row: accuracy[row] for row in order}
table("Strokes named from {} labelled images each; CroMA minus it, paired", accuracy, "CroMA", -1)

# Distillation: 2 drawings of each training character have strokes; their images, as the teacher sees them, are known.
chosen = np.random.default_rng(0).permuted(np.tile(np.arange(20), (train.classes, 1)), axis=1)[
    :, :2
]
few_rows = (np.asarray(train.start)[:, None] + chosen).reshape(-1)
few_x = jax.tree.map(lambda leaf: leaf[few_rows], train.x)
few_x = few_x._replace(
    value={**few_x.value, "image": few_x.value["image"].astype(jnp.float32) / 255}
)
teacher = jax.jit(
    lambda params, x: one("image")(params, see(params.slow["body"], x, None, ["image"]))
)
few_x = few_x._replace(value={**few_x.value, "image": teacher(learned["apart"], few_x)})
few = mj.data.dataset(few_x, train.y[few_rows])


def student(params, task, key):
    """Strokes by themselves, and what the teacher sees in their images, or answers from them, as task.context says."""
    ways, (see_alike, answer_alike) = len(task.support.y), task.context

    def encoded(batch):
        stroke = see(params.slow["body"], batch.x, None, ["stroke"])
        value = {
            "image": batch.x.value["image"],
            "stroke": SHARPNESS * encode(params, stroke)["stroke"],
        }
        return batch._replace(x=batch.x._replace(value=value))

    support, query = encoded(task.support), encoded(task.query)
    known = lambda params, x, key=None, *, reference=None: x.value
    heads = (
        mj.modalities.modal_prototypes(known, ways)
        .adapt(params._replace(fast={}), support, key)
        .fast["head"]
    )
    logits = lambda params, x, key=None, *, reference=None: scores(x.value, x.present, heads)
    value = optax.softmax_cross_entropy_with_integer_labels(
        logits(params, query.x)["stroke"], query.y
    ).mean()
    value += (
        see_alike * pair_loss(known, "stroke", "image", distill_features)(params, query, key)[0]
    )
    value += (
        answer_alike * pair_loss(logits, "stroke", "image", distill_logits)(params, query, key)[0]
    )
    return value, {}


def few_tasks(data, key):
    few, strengths = data
    return mj.data.episodes(20, 1, 1)(few, key)._replace(context=strengths)


def teach(strengths):
    strengths = tuple(map(jnp.asarray, strengths))
    return learn(student, make(2)[1], few_tasks, 4, (few, strengths))


def taught(what, strengths):
    """The student whose strength of teaching is best on validation tasks."""
    students = {one: teach(one) for one in strengths}
    found = {one: of_strokes(params, tasks["validation"]) for one, params in students.items()}
    return students[
        best(what, {one: mean({k: judged[k] for k in SHOTS}) for one, judged in found.items()})
    ]


students = {
    "no teaching": teach((0.0, 0.0)),
    "taught to see alike": taught("strength, features", [(1.0, 0.0), (10.0, 0.0)]),
    "taught to answer alike": taught("strength, answers", [(0.0, 0.3), (0.0, 3.0)]),
    "all strokes known": learned["apart"],
}
distilled = {row: of_strokes(params, tasks["test"]) for row, params in students.items()}
table(
    "Strokes named from {} labelled strokes each; it minus no teaching, paired",
    distilled,
    "no teaching",
    1,
)

took = time.perf_counter() - started
header = {
    "jax": jax.__version__,
    "device": jax.devices()[0].device_kind,
    "seconds": took,
    "steps": options.steps,
    "tasks": options.tasks,
    "pairs": WAYS * PAIRS,
    "classes": [part.classes for part in (train, validation, test)],
    "digest": mj.data.class_split(
        "alphabets", {"train": train, "validation": validation, "test": test}
    ).digest,
}
(options.out / "alignment.json").write_text(json.dumps({**header, "rows": report}, indent=1) + "\n")

# The picture: one task, and what every learner made of all of them.
figure = plt.figure(figsize=(15, 4.6), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=(1, 1.8))
task = across(jax.tree.map(lambda leaf: leaf[0], tasks["test"]), 1)
panels = left.subplots(WAYS, 4)
for panel, title in zip(
    panels[0], ("labelled image", "pair: image", "and stroke", "query"), strict=True
):
    panel.set_title(title, fontsize=9)


def trace(axes, points):
    x, y, t, start = np.asarray(points).T
    for line in np.split(np.arange(len(x)), np.flatnonzero(start)[1:]):
        axes.plot(x[line], y[line], color="0.5", linewidth=1)
    axes.scatter(x, y, c=t, s=3)
    axes.set(xlim=(-1.4, 1.4), ylim=(1.4, -1.4), aspect="equal")


mixed = np.random.default_rng(0).permutation(
    np.asarray(pair_rows)[::PAIRS]
)  # nobody says which pair is which
for way, panel in enumerate(panels):
    panel[0].imshow(
        1 - task.support.x.value["image"][way * (max(SHOTS) + PAIRS), :, :, 0], cmap="gray"
    )
    panel[1].imshow(1 - task.support.x.value["image"][mixed[way], :, :, 0], cmap="gray")
    trace(panel[2], task.support.x.value["stroke"][mixed[way]])
    trace(panel[3], task.query.x.value["stroke"][way * QUERIES])
    for axes in panel:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
panels_right = right.subplots(1, 2)
for axes, judged, title in (
    (panels_right[0], accuracy, "Strokes named from labelled images"),
    (panels_right[1], distilled, "Strokes named from labelled strokes"),
):
    shown = {
        f"{k} shot{'s' * (k > 1)}": {
            row: np.divide(summary(values[k]), 100) for row, values in judged.items()
        }
        for k in SHOTS
    }
    mj.plots.accuracies(axes, shown, title=title)
figure.savefig(options.out / "alignment.png", dpi=100)
print(f"{took:.0f} s; see {options.out / 'alignment.png'} and alignment.json.")
