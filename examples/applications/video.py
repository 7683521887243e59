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
from typing import NamedTuple

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
ALPHABETS = {"validation": ("Balinese",), "test": ("Sanskrit", "Tagalog")}


class Config(NamedTuple):
    """The settings of a run."""

    seen: tuple = (2, 4, 6, 8)  # frames of a video that is cut after 25, 50, 75 and 100 %
    size: int = 28  # height and width of pictures and frames
    ways: int = 5
    shots: tuple = (1, 5)
    most_shots: int = 8  # of the ruler, which measures how many shots a modality stands in for
    queries: int = 5  # of each class
    tasks: int = 300  # for each net and number of shots
    width: int = 32  # of the features
    image_channels: int = 32
    frame_channels: int = 24
    training_ways: int = 10
    training_queries: int = 4  # of each class; there is one shot
    outer_rate: float = 3e-3
    steps: int = 300  # steps of training of each net
    nets: int = 2  # nets, from as many seeds


TINY = Config(
    shots=(1,),
    most_shots=2,
    steps=2,
    nets=1,
    seen=(2, 8),
    size=16,
    tasks=4,
    width=8,
    image_channels=16,
    frame_channels=16,
)


def alphabet(name):
    return name.partition("/")[0]


def part_of(name):
    """The part that a class belongs to."""
    for part, alphabets in ALPHABETS.items():
        if alphabet(name) in alphabets:
            return part
    return "train"


def cut(x, length):
    """The drawings with their videos cut after `length` frames, int[n]."""
    video = x.value["video"]._replace(length=length)
    return x._replace(value={**x.value, "video": video})


def restrict(batch, name):
    """The batch with this modality alone."""
    return batch._replace(x=mj.modalities.restrict(batch.x, [name]))


def choose_cut(batch, index):
    """The batch with the features of its videos after one of the cuts."""
    video = batch.x.value["video"][..., index, :]
    return batch._replace(x=batch.x._replace(value={**batch.x.value, "video": video}))


def cut_queries(tasks, index):
    """Tasks whose support videos are whole, and whose query videos end with this cut."""
    return tasks._replace(
        support=choose_cut(tasks.support, -1), query=choose_cut(tasks.query, index)
    )


def percent(per_task):
    """Mean and half the width of the interval, of the accuracies of every net."""
    return common.percent(jnp.concatenate(per_task))


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


def main(config, out):
    """Trains some nets, and measures what each modality and both are worth."""
    key = jax.random.key(0)
    started = time.perf_counter()

    # Data: the picture as it was scanned, and the video as a series of frames, which may be cut.
    strokes = mj.data.omniglot_strokes()

    @jax.jit
    def film(trajectories):
        """Videos uint8[examples, FRAMES, config.size, config.size, 1] of pen trajectories."""

        def film_one(trajectory):
            frames = mj.data.draw(trajectory[None], frames=FRAMES, size=config.size)[0]
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
        image = mj.nets.Conv4(
            config.width, width=config.image_channels, norm=mj.nets.GroupNorm, rngs=rngs
        )
        frame = mj.nets.Conv4(
            config.width, width=config.frame_channels, norm=mj.nets.GroupNorm, rngs=rngs
        )
        video = mj.nets.Video(frame, mj.nets.GRU(config.width, config.width, rngs=rngs))
        net = mj.nets.Multimodal(
            {"image": image, "video": video}, mj.nets.fusion.mean, config.width, 1, rngs=rngs
        )
        apply, params = mj.nets.functional(net)
        return apply, mj.Params({}, params.fast)

    apply, _ = make(0)

    def encode(params, x):
        """{"image": [n, config.width], "video": [n, config.width]} of drawings."""
        return apply(mj.Params({}, params.slow), x, method="encode")

    def sample(dataset, key):
        """A training task: the videos of half of its queries are cut at a random frame."""
        task_key, half_key, cut_key = jax.random.split(key, 3)
        task = mj.data.episodes(config.training_ways, 1, config.training_queries)(dataset, task_key)
        number = len(task.query.y)
        length = jax.random.randint(cut_key, (number,), 1, FRAMES)
        is_cut = jax.random.bernoulli(half_key, shape=(number,))
        query_x = cut(task.query.x, jnp.where(is_cut, length, FRAMES))
        return task._replace(query=task.query._replace(x=query_x))

    def task_loss(params, task, key):
        """The loss with both modalities, plus that with each alone. Features are computed once."""

        def with_features(batch):
            return batch._replace(x=batch.x._replace(value=encode(params, batch.x)))

        support = with_features(task.support)
        query = with_features(task.query)
        adaptation = mj.modalities.modal_prototypes(encoder, config.training_ways)
        adapted = adaptation.adapt(params, support, key)
        total, metrics = loss(adapted, query, key)
        for name in ("image", "video"):
            alone, _ = loss(adapted, restrict(query, name), key)
            total += alone
        return total, metrics

    outer = mj.outer_loop(
        task_loss, optax.adam(optax.cosine_decay_schedule(config.outer_rate, config.steps))
    )

    @jax.jit
    def learn(params, dataset, key):
        """Params after training, compiled once for all nets."""
        state = outer.init(params)
        sample_one = mj.data.meta_batch(sample, 1)
        state, _ = mj.training.scan(outer, state, sample_one, dataset, key, steps=config.steps)
        return state.params

    @functools.partial(jax.jit, static_argnums=2)
    def features(params, part, cuts):
        """Features of all drawings: image [n, width], and video [n, cuts, width], for every cut."""

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

    late = mj.query_loss(mj.modalities.modal_prototypes(encoder, config.ways), loss)

    @functools.partial(jax.jit, static_argnums=1)
    def accuracy(tasks, name):
        """Accuracy of each task by one modality of its queries."""
        tasks = tasks._replace(query=restrict(tasks.query, name))
        return mj.evaluate(late, mj.Params({}, ()), tasks, key)["accuracy"].per_task

    def draw(dataset, shots, key):
        """Tasks of features."""
        return jax.jit(
            mj.data.meta_batch(mj.data.episodes(config.ways, shots, config.queries), config.tasks)
        )(dataset, key)

    # The test of every net.
    rulers = {shots: [] for shots in config.shots}  # what `metajax.modalities.ruler` measured
    unfinished = {shots: [] for shots in config.shots}  # for every net the accuracies of each cut
    finished = {shots: [] for shots in config.shots}  # accuracies by the picture
    for seed in range(config.nets):
        net_key = jax.random.fold_in(key, seed)
        _, params = make(seed)
        params = learn(params, parts["train"], net_key)
        print(f"net {seed}: trained, {time.perf_counter() - started:.0f} s", flush=True)

        validation = encoded(params, "validation", config.seen[-1:])
        test = encoded(params, "test", config.seen)
        validation_tasks = draw(validation, config.most_shots, jax.random.fold_in(net_key, 0))
        test_tasks = draw(test, config.most_shots, jax.random.fold_in(net_key, 1))
        measured = mj.modalities.ruler(
            encoder,
            params,
            cut_queries(validation_tasks, -1),
            cut_queries(test_tasks, -1),
            net_key,
            ways=config.ways,
            shots=config.shots,
        )
        for shots in config.shots:
            rulers[shots].append(measured[shots])
            tasks = draw(test, shots, jax.random.fold_in(net_key, 2))
            videos = [cut_queries(tasks, index) for index in range(len(config.seen))]
            unfinished[shots].append([accuracy(cut_tasks, "video") for cut_tasks in videos])
            finished[shots].append(accuracy(videos[-1], "image"))
        print(f"net {seed}: measured, {time.perf_counter() - started:.0f} s", flush=True)
    took = time.perf_counter() - started

    # The table: over the tasks of all nets.
    def accuracies(shots):
        """{row: [accuracies of every net]}. Which modality is the best is chosen on validation."""
        found = rulers[shots]
        rows = {row: [one.accuracy[row].per_task for one in found] for row in found[0].accuracy}
        rows["best single"] = [one.accuracy[one.best_single].per_task for one in found]
        return rows

    def by_cut(shots):
        """{share of the drawing that was seen: accuracy by the video}."""
        found = {}
        for index, frames in enumerate(config.seen):
            per_net = [of_net[index] for of_net in unfinished[shots]]
            found[f"{frames / FRAMES:.0%}"] = percent(per_net)
        return found

    rows = {shots: accuracies(shots) for shots in config.shots}
    report = {
        **common.header(),
        "seconds": took,
        "sizes": {
            "steps": config.steps,
            "nets": config.nets,
            "tasks": config.tasks,
            "frames": FRAMES,
            "ways": config.ways,
        },
        "classes": sizes,
        "digest": split.digest,
        "rows": {
            shots: {row: percent(per_net) for row, per_net in rows[shots].items()}
            for shots in config.shots
        },
        "paired": {shots: differences(rows[shots]) for shots in config.shots},
        "best single": [[one.best_single for one in rulers[shots]] for shots in config.shots],
        "static weights": {shots: [one.static for one in rulers[shots]] for shots in config.shots},
        "shots equivalent": {
            shots: [shots_equivalent(one) for one in rulers[shots]] for shots in config.shots
        },
        "unfinished": {shots: by_cut(shots) for shots in config.shots},
        "finished picture": {shots: percent(finished[shots]) for shots in config.shots},
    }
    for shots in config.shots:
        print(f"\n{common.shots_label(shots)}")
        for row, value in report["rows"][shots].items():
            print(f"{row:<24}{common.cell(value)}")
        for row, value in report["paired"][shots].items():
            print(f"{row:<24}{common.difference(value)}")
        for share, value in report["unfinished"][shots].items():
            print(f"{'video, ' + share + ' seen':<24}{common.cell(value)}")
    common.finish(out, "video", report, plot)


def plot(report, path):
    """A drawing as it is made, each modality, and the accuracy before the drawing is finished."""
    figure = plt.figure(figsize=(12, 6.2))
    above, below = figure.subfigures(2, 1, height_ratios=(1, 3))
    strokes = mj.data.omniglot_strokes()
    row = int(
        strokes.start[strokes.names.index(next(n for n in strokes.names if part_of(n) == "test"))]
    )
    frames = mj.data.draw(strokes.x.value["stroke"][row][None], frames=FRAMES, size=28)[0]
    panels = above.subplots(1, FRAMES + 1)
    for number, (axes, frame) in enumerate(zip(panels, frames, strict=False), start=1):
        common.draw_image(axes, frame, title=f"{number / FRAMES:.0%}")
    common.draw_image(panels[-1], strokes.x.value["image"][row], title="picture")

    left, right = below.subplots(1, 2)
    ways = report["sizes"]["ways"]
    title = f"Picture and video, {ways}-way, alphabets never seen"
    common.draw_accuracies(left, report["rows"], title=title, chance=1 / ways)
    lines = {}
    for number, (shots, by_share) in enumerate(report["unfinished"].items()):
        shares = [float(share.rstrip("%")) for share in by_share]
        means, halves = zip(*by_share.values(), strict=True)
        lines[f"video, {common.shots_label(shots)}"] = shares, means, halves
        mean, _ = report["finished picture"][shots]
        right.axhline(mean, color=f"C{number}", linestyle=":")
        right.text(25, mean, f"picture, {common.shots_label(shots)}", va="bottom", fontsize=8)
    xlabel = "share of the drawing's time that was seen, %"
    mj.plots.curves(
        right, lines, xlabel=xlabel, ylabel="accuracy, %", title="Before it is finished"
    )
    nets = report["sizes"]["nets"]
    common.save(figure, path, f"95 % intervals over test tasks of {nets} trained nets")


if __name__ == "__main__":
    common.run(main, Config(), TINY, "steps", "nets", description=__doc__)
