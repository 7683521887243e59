"""Drawings as picture and as the video of how they were drawn: what each is worth, and what is seen before the end.

Reads `omniglot_strokes.npz` from the folder that METAJAX_DATA names: 8 of Omniglot's 50 alphabets, with the pen's own
clock. Its strokes are rendered as videos of FRAMES frames. Encoders of picture and video are trained on 5 alphabets,
as prototypical networks are; how to weigh them is chosen and learned on Balinese, and Sanskrit and Tagalog are the
test. Intervals are over test tasks, of all nets; what is compared is of the same tasks.

    METAJAX_DATA=... python examples/video.py --out .
"""

import argparse
import functools
import json
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

WAYS, QUERIES, WIDTH, FRAMES, TASKS, SHOTS = 5, 5, 32, 8, 300, (1, 5)
SEEN = (2, 4, 6, 8)  # frames of a video that is cut after 25, 50, 75 and 100 %

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--steps", type=int, default=300, help="steps of training of each net")
parser.add_argument("--nets", type=int, default=2, help="nets, from as many seeds")
parser.add_argument(
    "--out", type=pathlib.Path, default=pathlib.Path(), help="folder of video.json and video.png"
)
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)
key, started = jax.random.key(0), time.perf_counter()

# Data: the picture as it was scanned, and the video as a series of frames, which may be cut.
drawings = mj.data.omniglot_strokes()
film = lambda stroke: (255 * mj.data.draw(stroke[None], frames=FRAMES, size=28)[0]).astype(
    jnp.uint8
)
frames = np.asarray(
    jax.jit(lambda strokes: jax.lax.map(film, strokes, batch_size=40))(drawings.x.value["stroke"])
)
video = mj.Series(frames, np.full(len(frames), FRAMES, np.int32))
x = mj.data.as_modalities({"image": drawings.x.value["image"], "video": video})
drawings = mj.data.dataset(x, drawings.y, names=drawings.names)
of = lambda *alphabets: mj.data.select(drawings, lambda name: name.split("/")[0] in alphabets)
validation, test = of("Balinese"), of("Sanskrit", "Tagalog")
train = mj.data.select(
    drawings, lambda name: name.split("/")[0] not in ("Balinese", "Sanskrit", "Tagalog")
)
print(
    f"{train.classes}, {validation.classes} and {test.classes} characters, {time.perf_counter() - started:.0f} s"
)

# Nets. Every drawing is normalised by itself, so that its features depend on no other and are computed once.
known = lambda params, x, key=None, *, reference=None: x.value  # of features that are there already
loss = mj.losses.cross_entropy(modalities.late_head(known))


def make(seed):
    """(encode, params): {"image": [n, WIDTH], "video": [n, WIDTH]} of drawings."""
    rngs = nnx.Rngs(seed)
    conv = lambda width: mj.nets.Conv4(WIDTH, width=width, norm=mj.nets.GroupNorm, rngs=rngs)
    encoders = {
        "image": conv(32),
        "video": mj.nets.Video(conv(24), mj.nets.GRU(WIDTH, WIDTH, rngs=rngs)),
    }
    net = mj.nets.Multimodal(encoders, mj.nets.fusion.mean, WIDTH, 1, rngs=rngs)
    apply, params = mj.nets.functional(net)
    encode = lambda params, x: apply(mj.Params(params.slow, {}), x, method="encode")
    return encode, mj.Params({}, params.fast)


def sample(dataset, key):
    """A task in which the videos of half of the queries are cut at a random frame; the support set is finished."""
    task_key, half_key, cut_key = jax.random.split(key, 3)
    task = mj.data.episodes(10, 1, 4)(dataset, task_key)
    number = len(task.query.y)
    cut = jax.random.randint(cut_key, (number,), 1, FRAMES)
    length = jnp.where(jax.random.bernoulli(half_key, shape=(number,)), cut, FRAMES)
    return task._replace(query=task.query._replace(x=shorten(task.query.x, length)))


def shorten(x, length):
    return x._replace(value=x.value | {"video": x.value["video"]._replace(length=length)})


def task_loss(params, task, key):
    """Both together, and each alone; features are computed once."""
    batches = [
        batch._replace(x=mj.Modalities(encode(params, batch.x), batch.x.present))
        for batch in task[:2]
    ]
    adapted = modalities.modal_prototypes(known, len(task.support.y)).adapt(params, batches[0], key)
    total, metrics = loss(adapted, batches[1], key)
    for name in ("image", "video"):
        total += loss(
            adapted, batches[1]._replace(x=modalities.restrict(batches[1].x, [name])), key
        )[0]
    return total, metrics


encode, _ = make(0)
outer = mj.outer_loop(task_loss, optax.adam(optax.cosine_decay_schedule(3e-3, options.steps)))


@jax.jit
def learn(params, dataset, key):
    """Params after training, compiled once for all nets."""

    def step(state, key):
        draw_key, step_key = jax.random.split(key)
        return outer.step(state, mj.data.meta_batch(sample, 1)(dataset, draw_key), step_key)[
            0
        ], None

    return jax.lax.scan(step, outer.init(params), jax.random.split(key, options.steps))[0].params


@functools.partial(jax.jit, static_argnums=2)
def encode_all(params, x, cuts):
    """Features of all drawings: image [n, WIDTH], and video [n, cuts, WIDTH], cut after so many frames."""

    def one(x):
        x = jax.tree.map(
            lambda leaf: leaf[None] / 255 if leaf.dtype == jnp.uint8 else leaf[None], x
        )
        made = [encode(params, shorten(x, jnp.full(1, seen))) for seen in cuts]
        return {
            "image": made[-1]["image"][0],
            "video": jnp.stack([each["video"][0] for each in made]),
        }

    return jax.lax.map(one, x, batch_size=20)


def features(params, part, cuts):
    """The part with features in the place of drawings."""
    return mj.data.dataset(mj.data.as_modalities(encode_all(params, part.x, cuts)), part.y)


def cut_queries(tasks, cut):
    """Tasks whose support videos are whole, and whose query videos end with that cut."""
    at = lambda batch, cut: batch._replace(
        x=batch.x._replace(value=batch.x.value | {"video": batch.x.value["video"][..., cut, :]})
    )
    return tasks._replace(support=at(tasks.support, -1), query=at(tasks.query, cut))


def only(name, tasks):
    """Tasks whose queries have nothing but this modality."""
    return tasks._replace(query=tasks.query._replace(x=modalities.restrict(tasks.query.x, [name])))


late = mj.query_loss(modalities.modal_prototypes(known, WAYS), loss)
judge = jax.jit(lambda tasks: mj.evaluate(late, mj.Params({}, ()), tasks, key)["accuracy"].per_task)
draw = {
    shots: jax.jit(mj.data.meta_batch(mj.data.episodes(WAYS, shots, QUERIES), TASKS))
    for shots in (8, *SHOTS)
}
measured, unfinished, finished = ({shots: [] for shots in SHOTS} for _ in range(3))
for seed in range(options.nets):
    net_key = jax.random.fold_in(key, seed)
    params = learn(make(seed)[1], train, net_key)
    print(f"net {seed}: trained, {time.perf_counter() - started:.0f} s", flush=True)
    parts = [features(params, part, cuts) for part, cuts in ((validation, SEEN[-1:]), (test, SEEN))]
    many = [
        cut_queries(draw[8](part, jax.random.fold_in(net_key, i)), -1)
        for i, part in enumerate(parts)
    ]
    rulers = modalities.ruler(known, params, *many, net_key, ways=WAYS, shots=SHOTS)
    for shots in SHOTS:
        measured[shots].append(rulers[shots])
        tasks = draw[shots](parts[1], jax.random.fold_in(net_key, 2))
        unfinished[shots].append(
            [judge(only("video", cut_queries(tasks, cut))) for cut in range(len(SEEN))]
        )
        finished[shots].append(judge(only("image", cut_queries(tasks, -1))))
    print(f"net {seed}: measured, {time.perf_counter() - started:.0f} s", flush=True)
took = time.perf_counter() - started


# The table: over the tasks of all nets.
def percent(per_task):
    one = mj.summarize(100 * jnp.concatenate(per_task))
    return [float(one.mean), float(one.interval)]


per_task = {
    shots: {
        row: [one.accuracy[row].per_task for one in measured[shots]]
        for row in measured[shots][0].accuracy
    }
    for shots in SHOTS
}
for shots in SHOTS:  # which one is best is chosen on validation tasks, for each net
    per_task[shots]["best single"] = [
        one.accuracy[one.best_single].per_task for one in measured[shots]
    ]
pairs = [("video", "image"), ("equal", "best single"), ("learned", "best single")]
pairs += [("learned", "equal"), ("learned", "static")]
minus = lambda rows, first, second: [a - b for a, b in zip(rows[first], rows[second], strict=True)]
report = {
    "jax": jax.__version__,
    "device": jax.devices()[0].device_kind,
    "seconds": took,
    "sizes": {
        "steps": options.steps,
        "nets": options.nets,
        "tasks": TASKS,
        "frames": FRAMES,
        "ways": WAYS,
    },
    "classes": {"train": train.classes, "validation": validation.classes, "test": test.classes},
    "digest": mj.data.class_split(
        "alphabets", {"train": train, "validation": validation, "test": test}
    ).digest,
    "rows": {
        shots: {row: percent(values) for row, values in per_task[shots].items()} for shots in SHOTS
    },
    "paired": {
        shots: {f"{a} minus {b}": percent(minus(per_task[shots], a, b)) for a, b in pairs}
        for shots in SHOTS
    },
    "best single": [[one.best_single for one in measured[shots]] for shots in SHOTS],
    "static weights": {shots: [one.static for one in measured[shots]] for shots in SHOTS},
    "shots equivalent": {  # of the best single modality; null for more than 8
        shots: [
            one.shots_equivalent() if np.isfinite(one.shots_equivalent()) else None
            for one in measured[shots]
        ]
        for shots in SHOTS
    },
    "unfinished": {
        shots: {
            f"{seen / FRAMES:.0%}": percent(cut)
            for seen, cut in zip(SEEN, zip(*unfinished[shots], strict=True), strict=True)
        }
        for shots in SHOTS
    },
    "finished picture": {shots: percent(finished[shots]) for shots in SHOTS},
}
for shots in SHOTS:
    print(f"\n{shots} shot{'s' * (shots > 1)}")
    for part in ("rows", "paired", "unfinished"):
        for row, (mean, interval) in report[part][shots].items():
            print(f"{'seen ' * (part == 'unfinished') + row:<24}{mean:+6.1f} ± {interval:.1f}")
(options.out / "video.json").write_text(json.dumps(report, indent=1) + "\n")

# The picture: a drawing as it comes to be, what each modality is worth, and what is seen before the end.
figure = plt.figure(figsize=(14, 5.6), layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=(1, 2.4))
example = int(test.start[11])
strip = above.subplots(1, FRAMES + 1)
shown = [*test.x.value["video"].value[example], test.x.value["image"][example]]
for number, (axis, frame) in enumerate(zip(strip, shown, strict=True)):
    axis.imshow(255 - np.asarray(frame)[..., 0], cmap="gray", vmin=0, vmax=255)
    axis.set_title(f"{(number + 1) / FRAMES:.0%}" if number < FRAMES else "picture", fontsize=9)
    axis.set(xticks=[], yticks=[])
left, right = below.subplots(1, 2)
plotted = {
    f"{shots} shot{'s' * (shots > 1)}": {
        row: np.divide(v, 100) for row, v in report["rows"][shots].items() if row != "best single"
    }
    for shots in SHOTS
}
mj.plots.accuracies(left, plotted, title=f"Picture and video, {WAYS}-way, alphabets never seen")
lines = {
    f"video, {shots} shot{'s' * (shots > 1)}": (
        [100 * seen / FRAMES for seen in SEEN],
        *zip(*cuts.values(), strict=True),
    )
    for shots, cuts in report["unfinished"].items()
}
mj.plots.curves(
    right,
    lines,
    xlabel="of the time of drawing, %",
    ylabel="accuracy, %",
    title="Before it is finished",
)
for number, shots in enumerate(SHOTS):
    right.axhline(report["finished picture"][shots][0], color=f"C{number}", linestyle=":")
    right.text(
        25, report["finished picture"][shots][0], "finished picture", va="bottom", fontsize=8
    )
figure.savefig(options.out / "video.png", dpi=100)
print(
    f"{time.perf_counter() - started:.0f} s in all; see {options.out / 'video.png'} and video.json."
)
