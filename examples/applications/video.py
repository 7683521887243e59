"""Drawings as picture and as the video of how they were drawn: each alone, both, and unfinished.

Reads `omniglot_strokes.npz` from the folder that METAJAX_DATA names: 8 of Omniglot's 50 alphabets,
with the pen's own clock. The strokes are rendered as videos of 8 frames. Encoders of picture and
video are trained on 5 alphabets, as prototypical networks are. How to weigh the two is chosen and
learned on Balinese; Sanskrit and Tagalog are the test. Intervals are over the test tasks of all
nets, and differences are of the same tasks.

    METAJAX_DATA=... python examples/applications/video.py --out .
"""

import functools
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import metajax as mj

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # the folder of common.py
import common

FRAMES = 8  # of a video
SEEN = (2, 4, 6, 8)  # frames of a video that is cut after 25, 50, 75 and 100 %
SIZE = 28  # height and width of pictures and frames
ALPHABETS = {"validation": ("Balinese",), "test": ("Sanskrit", "Tagalog")}

WAYS = 5
SHOTS = (1, 5)
MOST_SHOTS = 8  # of the ruler, which measures how many shots a modality stands in for
QUERIES = 5  # of each class
TASKS = 300  # for each net and number of shots

WIDTH = 32  # of the features
IMAGE_CHANNELS = 32
FRAME_CHANNELS = 24
TRAINING_WAYS = 10
TRAINING_QUERIES = 4  # of each class; there is one shot
OUTER_RATE = 3e-3

parser = common.parser(__doc__, "video.json and video.png")
parser.add_argument("--steps", type=int, default=300, help="steps of training of each net")
parser.add_argument("--nets", type=int, default=2, help="nets, from as many seeds")
options = common.parse(parser)
if options.tiny:
    options.steps = 2
    options.nets = 1
    SEEN = (2, 8)
    SIZE = 16
    TASKS = 4
    WIDTH = 8
    IMAGE_CHANNELS = 16
    FRAME_CHANNELS = 16

key = jax.random.key(0)
started = time.perf_counter()

# Data: the picture as it was scanned, and the video as a series of frames, which may be cut.
strokes = mj.data.omniglot_strokes()


@jax.jit
def film(trajectories):
    """Videos uint8[examples, FRAMES, SIZE, SIZE, 1] of pen trajectories."""

    def film_one(trajectory):
        frames = mj.data.draw(trajectory[None], frames=FRAMES, size=SIZE)[0]
        return (255 * frames).astype(jnp.uint8)

    return jax.lax.map(film_one, trajectories, batch_size=40)


frames = np.asarray(film(strokes.x.value["stroke"]))
videos = mj.Series(frames, np.full(len(frames), FRAMES, np.int32))
drawings = mj.data.dataset(
    mj.data.as_modalities({"image": strokes.x.value["image"], "video": videos}),
    strokes.y,
    names=strokes.names,
    scale={"image": 255, "video": 255},
)


def alphabet(name):
    return name.partition("/")[0]


def part_of(name):
    """The part that a class belongs to."""
    for part, alphabets in ALPHABETS.items():
        if alphabet(name) in alphabets:
            return part
    return "train"


split = mj.data.class_split(
    "alphabets",
    {
        part: [name for name in drawings.names if part_of(name) == part]
        for part in ("train", *ALPHABETS)
    },
)
parts = {part: mj.data.select_part(drawings, split, part) for part in split.parts}
sizes = {name: part.classes for name, part in parts.items()}
print(f"Characters: {sizes}, {time.perf_counter() - started:.0f} s")

# Nets. Every drawing is normalised by itself: its features depend on no other drawing, and are
# computed once. `encoder` reads features that are computed already.
encoder = mj.nets.identity_encoder
loss = mj.losses.cross_entropy(mj.modalities.late_head(encoder))


def make(seed):
    """(apply, params) of a net whose method "encode" makes features {"image", "video"}."""
    rngs = nnx.Rngs(seed)
    image = mj.nets.Conv4(WIDTH, width=IMAGE_CHANNELS, norm=mj.nets.GroupNorm, rngs=rngs)
    frame = mj.nets.Conv4(WIDTH, width=FRAME_CHANNELS, norm=mj.nets.GroupNorm, rngs=rngs)
    video = mj.nets.Video(frame, mj.nets.GRU(WIDTH, WIDTH, rngs=rngs))
    net = mj.nets.Multimodal(
        {"image": image, "video": video}, mj.nets.fusion.mean, WIDTH, 1, rngs=rngs
    )
    apply, params = mj.nets.functional(net)
    return apply, mj.Params({}, params.fast)


apply, _ = make(0)


def encode(params, x):
    """{"image": [n, WIDTH], "video": [n, WIDTH]} of drawings."""
    return apply(mj.Params({}, params.slow), x, method="encode")


def cut(x, length):
    """The drawings with their videos cut after `length` frames, int[n]."""
    video = x.value["video"]._replace(length=length)
    return x._replace(value={**x.value, "video": video})


def sample(dataset, key):
    """A training task: the videos of half of its queries are cut at a random frame."""
    task_key, half_key, cut_key = jax.random.split(key, 3)
    task = mj.data.episodes(TRAINING_WAYS, 1, TRAINING_QUERIES)(dataset, task_key)
    number = len(task.query.y)
    length = jax.random.randint(cut_key, (number,), 1, FRAMES)
    is_cut = jax.random.bernoulli(half_key, shape=(number,))
    query_x = cut(task.query.x, jnp.where(is_cut, length, FRAMES))
    return task._replace(query=task.query._replace(x=query_x))


def restrict(batch, name):
    """The batch with this modality alone."""
    return batch._replace(x=mj.modalities.restrict(batch.x, [name]))


def task_loss(params, task, key):
    """The loss with both modalities, plus that with each alone. Features are computed once."""

    def with_features(batch):
        return batch._replace(x=batch.x._replace(value=encode(params, batch.x)))

    support = with_features(task.support)
    query = with_features(task.query)
    adaptation = mj.modalities.modal_prototypes(encoder, TRAINING_WAYS)
    adapted = adaptation.adapt(params, support, key)
    total, metrics = loss(adapted, query, key)
    for name in ("image", "video"):
        alone, _ = loss(adapted, restrict(query, name), key)
        total += alone
    return total, metrics


outer = mj.outer_loop(task_loss, optax.adam(optax.cosine_decay_schedule(OUTER_RATE, options.steps)))


@jax.jit
def learn(params, dataset, key):
    """Params after training, compiled once for all nets."""
    state = outer.init(params)
    sample_one = mj.data.meta_batch(sample, 1)
    state, _ = mj.training.scan(outer, state, sample_one, dataset, key, steps=options.steps)
    return state.params


@functools.partial(jax.jit, static_argnums=2)
def features(params, part, cuts):
    """Features of all drawings: image [n, WIDTH], and video [n, cuts, WIDTH], for every cut."""

    def of_row(row):
        x = mj.data.take_examples(part, row[None])
        encoded = [encode(params, cut(x, jnp.full(1, frames))) for frames in cuts]
        videos = jnp.stack([features["video"][0] for features in encoded])
        return {"image": encoded[-1]["image"][0], "video": videos}

    return jax.lax.map(of_row, jnp.arange(len(part.y)), batch_size=20)


def encoded(params, part, cuts):
    """The part as a data set of features."""
    value = features(params, parts[part], cuts)
    return mj.data.dataset(mj.data.as_modalities(value), parts[part].y)


def choose_cut(batch, index):
    """The batch with the features of its videos after one of the cuts."""
    video = batch.x.value["video"][..., index, :]
    return batch._replace(x=batch.x._replace(value={**batch.x.value, "video": video}))


def cut_queries(tasks, index):
    """Tasks whose support videos are whole, and whose query videos end with this cut."""
    return tasks._replace(
        support=choose_cut(tasks.support, -1), query=choose_cut(tasks.query, index)
    )


late = mj.query_loss(mj.modalities.modal_prototypes(encoder, WAYS), loss)


@functools.partial(jax.jit, static_argnums=1)
def accuracy(tasks, name):
    """Accuracy of each task by one modality of its queries."""
    tasks = tasks._replace(query=restrict(tasks.query, name))
    return mj.evaluate(late, mj.Params({}, ()), tasks, key)["accuracy"].per_task


def draw(dataset, shots, key):
    """Tasks of features."""
    return jax.jit(mj.data.meta_batch(mj.data.episodes(WAYS, shots, QUERIES), TASKS))(dataset, key)


# The test of every net.
rulers = {shots: [] for shots in SHOTS}  # what `metajax.modalities.ruler` measured
unfinished = {shots: [] for shots in SHOTS}  # for every net the accuracies of each cut
finished = {shots: [] for shots in SHOTS}  # accuracies by the picture
for seed in range(options.nets):
    net_key = jax.random.fold_in(key, seed)
    _, params = make(seed)
    params = learn(params, parts["train"], net_key)
    print(f"net {seed}: trained, {time.perf_counter() - started:.0f} s", flush=True)

    validation = encoded(params, "validation", SEEN[-1:])
    test = encoded(params, "test", SEEN)
    validation_tasks = draw(validation, MOST_SHOTS, jax.random.fold_in(net_key, 0))
    test_tasks = draw(test, MOST_SHOTS, jax.random.fold_in(net_key, 1))
    measured = mj.modalities.ruler(
        encoder,
        params,
        cut_queries(validation_tasks, -1),
        cut_queries(test_tasks, -1),
        net_key,
        ways=WAYS,
        shots=SHOTS,
    )
    for shots in SHOTS:
        rulers[shots].append(measured[shots])
        tasks = draw(test, shots, jax.random.fold_in(net_key, 2))
        videos = [cut_queries(tasks, index) for index in range(len(SEEN))]
        unfinished[shots].append([accuracy(cut_tasks, "video") for cut_tasks in videos])
        finished[shots].append(accuracy(videos[-1], "image"))
    print(f"net {seed}: measured, {time.perf_counter() - started:.0f} s", flush=True)
took = time.perf_counter() - started


# The table: over the tasks of all nets.
def percent(per_task):
    """Mean and half the width of the interval, of the accuracies of every net."""
    return common.percent(jnp.concatenate(per_task))


def accuracies(shots):
    """{row: [accuracies of every net]}. Which modality is the best is chosen on validation."""
    found = rulers[shots]
    rows = {row: [one.accuracy[row].per_task for one in found] for row in found[0].accuracy}
    rows["best single"] = [one.accuracy[one.best_single].per_task for one in found]
    return rows


def differences(rows):
    """{"first minus second": paired difference}."""
    pairs = (
        ("video", "image"),
        ("equal", "best single"),
        ("learned", "best single"),
        ("learned", "equal"),
        ("learned", "static"),
    )
    found = {}
    for first, second in pairs:
        per_net = zip(rows[first], rows[second], strict=True)
        found[f"{first} minus {second}"] = percent([one - other for one, other in per_net])
    return found


def shots_equivalent(ruler):
    """The shots of the best single modality that are as good as both; None for more than 8."""
    shots = ruler.shots_equivalent()
    return shots if np.isfinite(shots) else None


def by_cut(shots):
    """{share of the drawing that was seen: accuracy by the video}."""
    found = {}
    for index, frames in enumerate(SEEN):
        per_net = [of_net[index] for of_net in unfinished[shots]]
        found[f"{frames / FRAMES:.0%}"] = percent(per_net)
    return found


rows = {shots: accuracies(shots) for shots in SHOTS}
report = {
    **common.header(),
    "seconds": took,
    "sizes": {
        "steps": options.steps,
        "nets": options.nets,
        "tasks": TASKS,
        "frames": FRAMES,
        "ways": WAYS,
    },
    "classes": sizes,
    "digest": split.digest,
    "rows": {
        shots: {row: percent(per_net) for row, per_net in rows[shots].items()} for shots in SHOTS
    },
    "paired": {shots: differences(rows[shots]) for shots in SHOTS},
    "best single": [[one.best_single for one in rulers[shots]] for shots in SHOTS],
    "static weights": {shots: [one.static for one in rulers[shots]] for shots in SHOTS},
    "shots equivalent": {
        shots: [shots_equivalent(one) for one in rulers[shots]] for shots in SHOTS
    },
    "unfinished": {shots: by_cut(shots) for shots in SHOTS},
    "finished picture": {shots: percent(finished[shots]) for shots in SHOTS},
}
for shots in SHOTS:
    print(f"\n{common.shots_label(shots)}")
    for row, value in report["rows"][shots].items():
        print(f"{row:<24}{common.cell(value)}")
    for row, value in report["paired"][shots].items():
        print(f"{row:<24}{common.difference(value)}")
    for share, value in report["unfinished"][shots].items():
        print(f"{'video, ' + share + ' seen':<24}{common.cell(value)}")
common.write_report(options.out / "video.json", report)

# The picture: a drawing as it is made, each modality, and the accuracy before the end.
figure = plt.figure(figsize=(14, 5.6), layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=(1, 2.4))
row = int(parts["test"].start[11])
x = parts["test"].x.value
images = [*np.asarray(x["video"].value[row]), np.asarray(x["image"][row])]
titles = [f"{(frame + 1) / FRAMES:.0%}" for frame in range(FRAMES)] + ["picture"]
for axis, image, title in zip(above.subplots(1, FRAMES + 1), images, titles, strict=True):
    axis.imshow(255 - image[..., 0], cmap="gray", vmin=0, vmax=255)
    axis.set_title(title, fontsize=9)
    axis.set(xticks=[], yticks=[])

left, right = below.subplots(1, 2)
measured = {}
lines = {}
for shots in SHOTS:
    shown = {row: value for row, value in report["rows"][shots].items() if row != "best single"}
    measured[common.shots_label(shots)] = common.fractions(shown)
    means, halves = zip(*report["unfinished"][shots].values(), strict=True)
    shares = [100 * frames / FRAMES for frames in SEEN]
    lines[f"video, {common.shots_label(shots)}"] = (shares, means, halves)
title = f"Picture and video, {WAYS}-way, alphabets never seen"
mj.plots.accuracies(left, measured, title=title)
xlabel = "of the time of drawing, %"
mj.plots.curves(right, lines, xlabel=xlabel, ylabel="accuracy, %", title="Before it is finished")
for number, shots in enumerate(SHOTS):
    mean, _ = report["finished picture"][shots]
    right.axhline(mean, color=f"C{number}", linestyle=":")
    right.text(25, mean, "finished picture", va="bottom", fontsize=8)
figure.savefig(options.out / "video.png", dpi=100)
seconds = time.perf_counter() - started
print(f"{seconds:.0f} s in all; see video.png and video.json in {options.out}.")
