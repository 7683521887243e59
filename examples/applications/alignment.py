"""Strokes named from images only: cross-modal generalisation, and a rich modality that teaches.

Reads `omniglot_strokes.npz` from the folder that METAJAX_DATA names. Five alphabets are for
training, Balinese serves to choose settings, and Sanskrit and Tagalog are the test. A task has 5
characters. Labels are given for 1 or 5 images of each. There are also 10 drawings, 2 of each
character, as image and stroke together ("pairs"), but not which character they show. The query has
strokes alone. CroMA (Liang et al. 2020) learns to align the two modalities from those pairs. It is
compared, on the same tasks, with

- the same net, trained to align without adapting;
- that net, with the adaptation for which it was never trained;
- a new net that is trained on the pairs of the task alone;
- the pairs as a bridge between two nets of one modality each;
- what would be possible if the strokes of the pairs had labels.

Then distillation: only 2 drawings of each training character have strokes, and an encoder of
images, which has seen all 20, teaches the encoder of strokes. Intervals are 95 %, over tasks, of
one net each and one choice of classes.

    METAJAX_DATA=... python examples/applications/alignment.py --out .
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

ALPHABETS = {"validation": ("Balinese",), "test": ("Sanskrit", "Tagalog")}


class Config(NamedTuple):
    """The settings of a run."""

    ways: int = 5
    shots: tuple = (1, 5)  # labelled images of each character
    pairs: int = 2  # of each character
    queries: int = 5  # of each character
    tasks_at_once: int = 10
    width: int = 32  # of the features
    stroke_channels: int = 48  # of the net for strokes
    sharpness: float = 3.0  # length of an embedding
    temperature: float = 0.1  # of the contrastive loss
    outer_rate: float = 3e-3
    inner_rate: float = 0.3
    inner_steps: int = 5
    fuse: int = 10  # steps in one compiled call
    rates_after_joint: tuple = (0.03, 0.1, 0.3, 1.0)  # of the adaptation that was not trained for
    scratch_steps: int = 10  # of training a new net on the pairs
    scratch_rates: tuple = (1e-3, 1e-2)
    feature_strengths: tuple = (1.0, 10.0)  # of teaching, what is tried
    logit_strengths: tuple = (0.3, 3.0)
    steps: int = 400  # steps of training for each net, a multiple of 10
    tasks: int = 200  # test tasks, and validation tasks


TINY = Config(
    shots=(1,),
    steps=2,
    tasks=2,
    fuse=1,
    tasks_at_once=2,
    width=4,
    stroke_channels=4,
    inner_steps=1,
    scratch_steps=1,
    rates_after_joint=(0.1,),
    scratch_rates=(0.001,),
    feature_strengths=(1.0,),
    logit_strengths=(0.3,),
)


def part_of(name):
    """The part that a class belongs to."""
    alphabet = name.partition("/")[0]
    for part, alphabets in ALPHABETS.items():
        if alphabet in alphabets:
            return part
    return "train"


def restrict(batch, name):
    """The batch with this modality alone."""
    return batch._replace(x=mj.modalities.restrict(batch.x, [name]))


def unit(features):
    """The features at length 1, with a gradient at 0."""
    return features / jnp.sqrt((features**2).sum(axis=1, keepdims=True) + 1e-6)


def main(config, out):
    """Trains every learner, tests all on the same tasks, and then distils."""
    _cache = common.reuse_programs()  # all students are trained by the same program
    key = jax.random.key(0)
    started = time.perf_counter()

    # Data.
    most_shots = max(config.shots)
    each = most_shots + config.pairs  # drawings of a character: labelled ones, then pairs
    drawings = mj.data.omniglot_strokes()

    split = mj.data.class_split(
        "alphabets",
        {
            part: [name for name in drawings.names if part_of(name) == part]
            for part in ("train", *ALPHABETS)
        },
    )
    parts = {part: mj.data.select_part(drawings, split, part) for part in split.parts}

    def draw(part, seed):
        """Tasks whose support sets have each drawings of each character."""
        sample = mj.data.meta_batch(
            mj.data.episodes(config.ways, each, config.queries), config.tasks
        )
        return jax.jit(sample)(parts[part], jax.random.key(seed))

    def hide(task, shots):
        """The task of this example, of one whose drawings all have labels and both modalities.

        Labels stay for `shots` images of each character. The last config.pairs drawings of each
        keep both modalities and lose their label: -1 is no class. Queries keep their strokes.
        """
        support = task.support
        drawings_of_each = len(support.y) // config.ways
        place = jnp.arange(len(support.y)) % drawings_of_each
        is_pair = place >= drawings_of_each - config.pairs
        is_used = is_pair | (place < shots)
        x = support.x._replace(present={"image": jnp.ones_like(is_pair), "stroke": is_pair})
        y = jnp.where(is_pair, -1, support.y)
        support = support._replace(x=x, y=y, weight=is_used.astype(jnp.float32))
        return task._replace(support=support, query=restrict(task.query, "stroke"))

    def task_with_pairs(dataset, key):
        """A training task, with labels for one image of each character."""
        return hide(
            mj.data.episodes(config.ways, 1 + config.pairs, config.queries)(dataset, key), 1
        )

    # Nets. The body of each encoder is slow. A linear map of its features to a common space is
    # fast.
    def make(seed):
        """({modality: apply of its body}, params)."""
        rngs = nnx.Rngs(seed)
        nets = {
            "image": mj.nets.Conv4(config.width, width=config.width, rngs=rngs),
            "stroke": mj.nets.TemporalConv(
                4, config.width, width=config.stroke_channels, rngs=rngs
            ),
        }
        applies = {}
        weights = {}
        for name, net in nets.items():
            applies[name], params = mj.nets.functional(net)
            weights[name] = params.fast
        maps = {name: jnp.eye(config.width) for name in nets}
        return applies, mj.Params({"map": maps}, {"body": weights})

    bodies, start = make(0)

    def run_bodies(body, x, reference, names=("image", "stroke")):
        """Features of the bodies in the place of inputs. Those of other modalities are zero.

        Args:
            body: weights of the bodies.
            x: a `Modalities` of inputs.
            reference: the rows that statistics are of, among those that have the modality.
            names: the modalities to run.
        """
        value = {name: jnp.zeros((len(x.present[name]), config.width)) for name in x.value}
        for name in names:
            here = x.present[name] if reference is None else x.present[name] & (reference > 0)
            features = bodies[name](mj.Params({}, body[name]), x.value[name], reference=here)
            value[name] = unit(features)
        return x._replace(value=value)

    def see(params, batch, names=("image", "stroke")):
        """The batch with features in the place of inputs. Statistics are of its rows that count."""
        return batch._replace(x=run_bodies(params.slow["body"], batch.x, batch.weight, names))

    def see_task(params, task):
        """The task of this example with features in the place of inputs."""
        return task._replace(
            support=see(params, task.support), query=see(params, task.query, ["stroke"])
        )

    def align(params, x):
        """{modality: [n, width]}, on the unit sphere where image and stroke meet, of features."""
        return {name: unit(x.value[name] @ params.fast["map"][name]) for name in x.value}

    def run_and_align(params, x, key=None, *, reference=None):
        """The same, of inputs, with bodies that are fast as well."""
        return align(params, run_bodies(params.fast["body"], x, reference))

    def embedding(name):
        """The embedding of one modality."""
        embed, _ = mj.nets.from_function(
            lambda params, x: config.sharpness * align(params, x)[name]
        )
        return embed

    # Adaptations. The last thing that each does is to write prototypes. All name strokes.
    encode, _ = mj.nets.from_function(align)
    embed = {name: embedding(name) for name in bodies}
    write = {name: mj.prototypes(embed[name], config.ways) for name in bodies}
    loss = mj.losses.cross_entropy(mj.linear_head(embed["stroke"]))
    contrast = functools.partial(mj.modalities.info_nce, temperature=config.temperature)
    descent = mj.inner_loop(
        mj.modalities.pair_loss(encode, "image", "stroke", contrast),
        mj.leaf_rates(config.inner_rate),
        steps=config.inner_steps,
    )
    croma = mj.chain(align=descent, head=write["image"])
    joint = mj.chain(align=mj.identity(), head=write["image"])

    def use_as_bridge(params, support, key):
        """The strokes of the pairs get the labels of the images that their images resemble."""
        adapted = write["image"].adapt(params, support, key)
        labels = mj.linear_head(embed["image"])(adapted, support.x).argmax(axis=1)
        is_pair = support.x.present["stroke"]
        support = support._replace(y=labels.astype(jnp.int32), weight=is_pair * 1.0)
        return write["stroke"].adapt(params, support, key)

    bridge = mj.Adaptation(croma.init, use_as_bridge)

    # Training.
    def on_features(task_loss):
        """The same loss of tasks of inputs. Bodies run once, and not at every step of descent."""

        def whole(params, task, key):
            return task_loss(params, see_task(params, task), key)

        return whole

    def learn(task_loss, params, sample, tasks, data=parts["train"]):
        """Params after training."""
        optimizer = optax.adam(optax.cosine_decay_schedule(config.outer_rate, config.steps))
        outer = mj.outer_loop(task_loss, optimizer)
        state, _ = mj.training.fit(
            outer,
            outer.init(params),
            mj.data.meta_batch(sample, tasks),
            data,
            key,
            steps=config.steps,
            fuse=config.fuse,
            every=config.steps,
            progress=False,
        )
        print(f"{time.perf_counter() - started:.0f} s so far", flush=True)
        return state.params

    def each_alone(params, task, key):
        """Each modality by itself, from labels."""
        ways = len(task.support.y)  # there is one shot
        task = mj.Task(see(params, task.support), see(params, task.query))
        total = jnp.zeros(())
        for name in bodies:
            of_modality = mj.query_loss(
                mj.prototypes(embed[name], ways),
                mj.losses.cross_entropy(mj.linear_head(embed[name])),
            )
            value, metrics = of_modality(params, task, key)
            total += value
        return total, metrics

    learned = {
        "croma": learn(
            on_features(mj.query_loss(croma, loss)), croma.init(start, key), task_with_pairs, 8
        ),
        "joint": learn(
            on_features(mj.query_loss(joint, loss)), joint.init(start, key), task_with_pairs, 8
        ),
        "alone": learn(each_alone, start, mj.data.episodes(10, 1, 2), 4),
    }

    # The test, on the same tasks for all.
    @jax.jit
    def look(params, tasks):
        """{shots: the tasks of this example, with features}. Bodies run once for each net."""

        def of_shots(shots):
            def of_task(task):
                return see_task(params, hide(task, shots))

            return jax.lax.map(of_task, tasks, batch_size=config.tasks_at_once)

        return {shots: of_shots(shots) for shots in config.shots}

    def scorer(adaptation):
        """(params, {shots: tasks of features}) -> {shots: accuracy of each task}."""
        task_loss = mj.query_loss(adaptation, loss)

        @jax.jit
        def score(params, tasks):
            return mj.evaluate(task_loss, params, tasks, key)["accuracy"].per_task

        return lambda params, seen: {
            shots: np.asarray(score(params, seen[shots])) for shots in config.shots
        }

    def best(what, by_setting):
        """The setting with the highest accuracy on validation tasks, over both numbers of shots.

        Args:
            what: what is chosen, for a line of output.
            by_setting: {setting: {shots: accuracy of each task}}.
        """
        means = {
            setting: np.mean([np.asarray(by_shots[shots]) for shots in config.shots])
            for setting, by_shots in by_setting.items()
        }
        print(
            what,
            {setting: round(100 * float(mean), 1) for setting, mean in means.items()},
            flush=True,
        )
        return max(means, key=means.get)

    tasks = {"validation": draw("validation", 1), "test": draw("test", 2)}
    seen = {name: look(params, tasks["test"]) for name, params in learned.items()}
    score_croma = scorer(croma)
    accuracy = {"CroMA": score_croma(learned["croma"], seen["croma"])}
    accuracy["joint alignment"] = scorer(joint)(learned["joint"], seen["joint"])

    # The net of joint alignment, with CroMA's adaptation and the rate that does best on validation.
    def joint_at_rate(rate):
        rule = jax.tree.map(lambda leaf: jnp.full_like(leaf, rate), learned["croma"].rule)
        return learned["joint"]._replace(rule=rule)

    on_validation = look(learned["joint"], tasks["validation"])
    tried = {
        rate: score_croma(joint_at_rate(rate), on_validation) for rate in config.rates_after_joint
    }
    rate = best("rate after joint alignment", tried)
    accuracy["joint, then adapted"] = score_croma(joint_at_rate(rate), seen["joint"])

    # From scratch: all weights of a new net, from the pairs of the task alone.
    place = np.arange(config.ways * each) % each  # of a drawing among those of its character
    pair_rows = np.flatnonzero(place >= most_shots)
    fit_pairs = mj.inner_loop(
        mj.modalities.pair_loss(run_and_align, "image", "stroke", contrast),
        mj.learned(optax.adam, config.scratch_rates[0]),
        steps=config.scratch_steps,
        differentiate=mj.first_order(),
    )
    score_joint = mj.query_loss(joint, loss)

    @jax.jit
    def from_scratch(rate, tasks):
        """{shots: accuracy of each task} of the net that has seen the pairs, with prototypes."""
        params = mj.Params({"map": start.fast["map"], "body": start.slow["body"]}, (), rate)

        def of_task(task):
            pairs = mj.take(hide(task, 1).support, pair_rows)
            fast = fit_pairs.adapt(params, pairs, key).fast
            fitted = mj.Params({"map": fast["map"]}, {"body": fast["body"]})
            fitted = joint.init(fitted, key)
            found = {}
            for shots in config.shots:
                _, metrics = score_joint(fitted, see_task(fitted, hide(task, shots)), key)
                found[shots] = metrics["accuracy"]
            return found

        return jax.lax.map(of_task, tasks, batch_size=config.tasks_at_once)

    tried = {rate: from_scratch(rate, tasks["validation"]) for rate in config.scratch_rates}
    accuracy["from scratch"] = from_scratch(best("rate from scratch", tried), tasks["test"])
    accuracy["pairs as a bridge"] = scorer(bridge)(learned["alone"], seen["alone"])

    # Strokes from labelled strokes: from 1 and from 5 of each character, or from those of the
    # pairs.
    score_strokes = mj.query_loss(write["stroke"], loss)
    stroke_rows = {shots: np.flatnonzero(place < shots) for shots in config.shots} | {
        "pairs": pair_rows
    }

    @jax.jit
    def of_strokes(params, tasks):
        """{shots or "pairs": accuracy of each task}."""

        def of_task(task):
            query = see(params, task.query, ["stroke"])
            found = {}
            for name, rows in stroke_rows.items():
                support = see(params, mj.take(task.support, rows), ["stroke"])
                _, metrics = score_strokes(params, mj.Task(support, query), key)
                found[str(name)] = metrics["accuracy"]
            return found

        return jax.lax.map(of_task, tasks, batch_size=config.tasks_at_once)

    def by_shots(found):
        return {shots: found[str(shots)] for shots in config.shots}

    labelled = of_strokes(learned["alone"], tasks["test"])
    accuracy["labelled strokes"] = dict.fromkeys(config.shots, labelled["pairs"])
    order = (
        "CroMA",
        "joint alignment",
        "joint, then adapted",
        "from scratch",
        "pairs as a bridge",
        "labelled strokes",
    )
    accuracy = {row: accuracy[row] for row in order}

    def table(title, accuracies, other, sign):
        """Prints accuracies and their paired differences to one row, and returns both.

        Args:
            title: of the table, with a place for the number of shots.
            accuracies: {row: {shots: accuracy of each task}}.
            other: the row of the differences.
            sign: 1 for row minus other, -1 for other minus row.
        """
        found = {row: {} for row in accuracies}
        for shots in config.shots:
            print(f"\n{title.format(shots)}")
            for row, of_row in accuracies.items():
                less = sign * (np.asarray(of_row[shots]) - np.asarray(accuracies[other][shots]))
                cell = {
                    "accuracy": common.percent(of_row[shots]),
                    "difference": common.percent(less),
                }
                found[row][shots] = cell
                texts = common.cell(cell["accuracy"]), common.difference(cell["difference"])
                print(f"{row:<22} {texts[0]}   {texts[1]}")
        print(f"{time.perf_counter() - started:.0f} s so far", flush=True)
        return found

    title = "Strokes named from {} labelled images each; CroMA minus it, paired"
    report = {"CroMA": table(title, accuracy, "CroMA", -1)}

    # Distillation: few drawings of each training character have strokes. Their images are known to
    # the student as the features of the teacher.
    @jax.jit
    def teacher(params, batch):
        """Embeddings of the images."""
        return embed["image"](params, see(params, batch, ["image"]).x)

    def few_drawings(number=2):
        """The training data with `number` drawings of each character, and features as images."""
        train = parts["train"]
        rng = np.random.default_rng(0)
        every = np.tile(np.arange(20), (train.classes, 1))
        chosen = rng.permuted(every, axis=1)[:, :number]
        rows = (np.asarray(train.start)[:, None] + chosen).reshape(-1)
        batch = mj.Batch(mj.data.take_examples(train, rows), train.y[rows])
        images = teacher(learned["alone"], batch)
        value = {**batch.x.value, "image": images}
        return mj.data.dataset(batch.x._replace(value=value), batch.y)

    few = few_drawings()
    encoder = mj.nets.identity_encoder

    def sample_few(data, key):
        """A task of few drawings. Its context is how strong the teaching is."""
        few, strengths = data
        return mj.data.episodes(20, 1, 1)(few, key)._replace(context=strengths)

    def student_loss(params, task, key):
        """The loss by strokes alone, plus the distance of features and logits to the teacher's."""
        ways = len(task.support.y)  # there is one shot
        feature_strength, logit_strength = task.context

        def embedded(batch):
            """The batch with the student's embeddings in the place of strokes."""
            strokes = see(params, batch, ["stroke"]).x
            value = {"image": batch.x.value["image"], "stroke": embed["stroke"](params, strokes)}
            return batch._replace(x=batch.x._replace(value=value))

        support = embedded(task.support)
        query = embedded(task.query)
        adaptation = mj.modalities.modal_prototypes(encoder, ways)
        heads = adaptation.adapt(params._replace(fast={}), support, key).fast["head"]

        def logits_of_modalities(params, x):
            return mj.modalities.modal_scores(x.value, x.present, heads)

        logits, _ = mj.nets.from_function(logits_of_modalities)
        by_strokes = logits(params, query.x)["stroke"]
        value = optax.softmax_cross_entropy_with_integer_labels(by_strokes, query.y).mean()
        match_features = mj.modalities.pair_loss(
            encoder, "stroke", "image", mj.modalities.distill_features
        )
        match_logits = mj.modalities.pair_loss(
            logits, "stroke", "image", mj.modalities.distill_logits
        )
        value += feature_strength * match_features(params, query, key)[0]
        value += logit_strength * match_logits(params, query, key)[0]
        return value, {}

    def teach(feature_strength, logit_strength):
        """A student after training."""
        _, params = make(2)
        strengths = jnp.asarray(feature_strength), jnp.asarray(logit_strength)
        return learn(student_loss, params, sample_few, 4, (few, strengths))

    def best_student(what, students):
        """The student, of {strength: params}, that does best on validation tasks."""
        found = {
            strength: by_shots(of_strokes(params, tasks["validation"]))
            for strength, params in students.items()
        }
        return students[best(what, found)]

    students = {
        "no teaching": teach(0.0, 0.0),
        "taught to see alike": best_student(
            "strength, features",
            {strength: teach(strength, 0.0) for strength in config.feature_strengths},
        ),
        "taught to answer alike": best_student(
            "strength, answers",
            {strength: teach(0.0, strength) for strength in config.logit_strengths},
        ),
        "all strokes known": learned["alone"],
    }
    distilled = {
        row: by_shots(of_strokes(params, tasks["test"])) for row, params in students.items()
    }
    title = "Strokes named from {} labelled strokes each; it minus no teaching, paired"
    report["no teaching"] = table(title, distilled, "no teaching", 1)

    took = time.perf_counter() - started
    header = {
        **common.header(),
        "seconds": took,
        "steps": config.steps,
        "tasks": config.tasks,
        "pairs": config.ways * config.pairs,
        "classes": [part.classes for part in parts.values()],
        "digest": split.digest,
    }
    report = common.write_report(out / "alignment.json", {**header, "rows": report})

    plot(report, out / "alignment.png")
    print(f"{took:.0f} s in all; see alignment.png and alignment.json in {out}.")


def plot(report, path):
    """Five characters of the test as image and stroke, and the accuracy of every row."""
    figure = plt.figure(figsize=(12, 5))
    left, right = figure.subfigures(1, 2, width_ratios=(1, 4))
    drawings = mj.data.omniglot_strokes()
    panels = left.subplots(5, 2)
    tested = [row for row, name in enumerate(drawings.names) if part_of(name) == "test"]
    for panel, label in zip(panels, tested[:: len(tested) // 5], strict=False):
        row = int(drawings.start[label])
        common.draw_image(panel[0], drawings.x.value["image"][row])
        common.draw_strokes(panel[1], drawings.x.value["stroke"][row])
    panels[0, 0].set_title("image", fontsize=9)
    panels[0, 1].set_title("stroke", fontsize=9)
    titles = ("Strokes named from labelled images", "Strokes named from labelled strokes")
    panels = right.subplots(1, 2)
    for axes, rows, title in zip(panels, report["rows"].values(), titles, strict=True):
        by_shots = {}
        for row, of_row in rows.items():
            for shots, values in of_row.items():
                by_shots.setdefault(shots, {})[row] = values["accuracy"]
        common.draw_accuracies(axes, by_shots, title=title, chance=1 / Config().ways)
    common.note(figure, common.OF_ONE_NET)
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    common.run(main, Config(), TINY, "steps", "tasks", description=__doc__)
