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


def hide(config, task, shots):
    """The task of this example, of one whose drawings all have labels and both modalities.

    Labels stay for `shots` images of each character. The last drawings of each are pairs: they keep
    both modalities and lose their label, as -1 is no class. Queries keep their strokes.
    """
    support = task.support
    drawings = len(support.y) // config.ways  # of each character
    place = jnp.arange(len(support.y)) % drawings
    is_pair = place >= drawings - config.pairs
    is_used = is_pair | (place < shots)
    x = support.x._replace(present={"image": jnp.ones_like(is_pair), "stroke": is_pair})
    y = jnp.where(is_pair, -1, support.y)
    support = support._replace(x=x, y=y, weight=is_used.astype(jnp.float32))
    return task._replace(support=support, query=restrict(task.query, "stroke"))


def make(config, seed):
    """({modality: apply of its body}, params).

    The body of each encoder is slow. A linear map of its features to a common space is fast.
    """
    rngs = nnx.Rngs(seed)
    nets = {
        "image": mj.nets.Conv4(config.width, width=config.width, rngs=rngs),
        "stroke": mj.nets.TemporalConv(4, config.width, width=config.stroke_channels, rngs=rngs),
    }
    applies = {}
    weights = {}
    for name, net in nets.items():
        applies[name], params = mj.nets.functional(net)
        weights[name] = params.fast
    maps = {name: jnp.eye(config.width) for name in nets}
    return applies, mj.Params({"map": maps}, {"body": weights})


class Net:
    """The net of every learner, as functions of params."""

    def __init__(self, config):
        self.config = config
        self.bodies, self.start = make(config, 0)
        self.encode, _ = mj.nets.from_function(self.align)
        self.embed = {name: self.embedding(name) for name in self.bodies}
        self.write = {name: mj.prototypes(self.embed[name], config.ways) for name in self.bodies}
        self.loss = mj.losses.cross_entropy(mj.linear_head(self.embed["stroke"]))

    def run_bodies(self, body, x, reference, names=("image", "stroke")):
        """Features of the bodies in the place of inputs. Those of other modalities are zero.

        Args:
            body: weights of the bodies.
            x: a `Modalities` of inputs.
            reference: the rows that statistics are of, among those that have the modality.
            names: the modalities to run.
        """
        width = self.config.width
        value = {name: jnp.zeros((len(x.present[name]), width)) for name in x.value}
        for name in names:
            here = x.present[name] if reference is None else x.present[name] & (reference > 0)
            params = mj.Params({}, body[name])
            value[name] = unit(self.bodies[name](params, x.value[name], reference=here))
        return x._replace(value=value)

    def see(self, params, batch, names=("image", "stroke")):
        """The batch with features in the place of inputs. Statistics are of its rows that count."""
        x = self.run_bodies(params.slow["body"], batch.x, batch.weight, names)
        return batch._replace(x=x)

    def see_task(self, params, task):
        """The task of this example with features in the place of inputs."""
        support = self.see(params, task.support)
        return task._replace(support=support, query=self.see(params, task.query, ["stroke"]))

    def align(self, params, x):
        """{modality: [n, width]}, on the unit sphere where image and stroke meet, of features."""
        return {name: unit(x.value[name] @ params.fast["map"][name]) for name in x.value}

    def run_and_align(self, params, x, key=None, *, reference=None):
        """The same, of inputs, with bodies that are fast as well."""
        return self.align(params, self.run_bodies(params.fast["body"], x, reference))

    def embedding(self, name):
        """The embedding of one modality."""
        sharpness = self.config.sharpness
        embed, _ = mj.nets.from_function(lambda params, x: sharpness * self.align(params, x)[name])
        return embed

    def on_features(self, task_loss):
        """The same loss of tasks of inputs. Bodies run once, and not at every step of descent."""

        def whole(params, task, key):
            return task_loss(params, self.see_task(params, task), key)

        return whole

    def each_alone(self, params, task, key):
        """The loss of each modality by itself, from labels."""
        ways = len(task.support.y)  # there is one shot
        task = mj.Task(self.see(params, task.support), self.see(params, task.query))
        total = jnp.zeros(())
        for embed in self.embed.values():
            loss = mj.losses.cross_entropy(mj.linear_head(embed))
            value, metrics = mj.query_loss(mj.prototypes(embed, ways), loss)(params, task, key)
            total += value
        return total, metrics

    def use_as_bridge(self, params, support, key):
        """The strokes of the pairs get the labels of the images that their images resemble."""
        adapted = self.write["image"].adapt(params, support, key)
        labels = mj.linear_head(self.embed["image"])(adapted, support.x).argmax(axis=1)
        is_pair = support.x.present["stroke"]
        support = support._replace(y=labels.astype(jnp.int32), weight=is_pair * 1.0)
        return self.write["stroke"].adapt(params, support, key)


def trainer(config, task_loss, sample, tasks):
    """(params, data) -> params after training, compiled once for all that it trains."""
    optimizer = optax.adam(optax.cosine_decay_schedule(config.outer_rate, config.steps))
    outer = mj.outer_loop(task_loss, optimizer)
    sample = mj.data.meta_batch(sample, tasks)

    def train(params, data):
        state, records = mj.training.fit(
            outer,
            outer.init(params),
            sample,
            data,
            jax.random.key(0),
            steps=config.steps,
            fuse=config.fuse,
            every=config.steps,
            progress=False,
        )
        print(f"a net was trained in {records[-1]['seconds']:.0f} s", flush=True)
        return state.params

    return train


def best(what, by_setting):
    """The setting with the highest accuracy on validation tasks, over the numbers of shots.

    Args:
        what: what is chosen, for a line of output.
        by_setting: {setting: {shots: accuracy of each task}}.
    """
    means = {}
    for setting, by_shots in by_setting.items():
        means[setting] = np.mean([np.asarray(accuracy) for accuracy in by_shots.values()])
    tried = ", ".join(f"{setting}: {100 * mean:.1f} %" for setting, mean in means.items())
    print(f"{what}, on validation tasks: {tried}", flush=True)
    return max(means, key=means.get)


def tester_of_strokes(config, net):
    """(params, tasks) -> {shots or "pairs": accuracy of each task} from strokes with labels.

    They are those of the first drawings of each character, or those of the pairs.
    """
    task_loss = mj.query_loss(net.write["stroke"], net.loss)
    rows_of = {shots: rows_before(config, shots) for shots in config.shots}
    rows_of["pairs"] = pair_rows(config)

    @jax.jit
    def test(params, tasks):
        def of_task(task):
            query = net.see(params, task.query, ["stroke"])
            found = {}
            for name, rows in rows_of.items():
                support = net.see(params, mj.take(task.support, rows), ["stroke"])
                _, metrics = task_loss(params, mj.Task(support, query), jax.random.key(0))
                found[str(name)] = metrics["accuracy"]
            return found

        return jax.lax.map(of_task, tasks, batch_size=config.tasks_at_once)

    return test


def drawings_of_each(config):
    """Drawings of a character in a support set: labelled ones, then pairs."""
    return max(config.shots) + config.pairs


def rows_before(config, place):
    """The rows of a support set that are among the first drawings of their character."""
    each = drawings_of_each(config)
    return np.flatnonzero(np.arange(config.ways * each) % each < place)


def pair_rows(config):
    """The rows of a support set that are pairs."""
    every = np.arange(config.ways * drawings_of_each(config))
    return np.setdiff1d(every, rows_before(config, max(config.shots)))


def table(title, accuracies, other, sign):
    """Prints accuracies and their paired differences to one row, and returns both.

    Args:
        title: of the table, with a place for the number of shots.
        accuracies: {row: {shots: accuracy of each task}}.
        other: the row of the differences.
        sign: 1 for row minus other, -1 for other minus row.
    """
    found = {row: {} for row in accuracies}
    for shots, of_other in accuracies[other].items():
        print(f"\n{title.format(shots)}")
        for row, of_row in accuracies.items():
            accuracy = common.percent(of_row[shots])
            less = common.percent(sign * (np.asarray(of_row[shots]) - np.asarray(of_other)))
            found[row][shots] = {"accuracy": accuracy, "difference": less}
            print(f"{row:<22} {common.cell(accuracy)}   {common.difference(less)}")
    return found


def cross_modal(config, net, data, tasks, alone):
    """{row: {shots: accuracy of each test task}} of strokes that are named from images.

    Args:
        config: the settings.
        net: the net.
        data: the training part.
        tasks: {"validation": tasks, "test": tasks}.
        alone: params that have learned each modality by itself.
    """
    key = jax.random.key(0)
    contrast = functools.partial(mj.modalities.info_nce, temperature=config.temperature)
    descent = mj.inner_loop(
        mj.modalities.pair_loss(net.encode, "image", "stroke", contrast),
        mj.leaf_rates(config.inner_rate),
        steps=config.inner_steps,
    )
    croma = mj.chain(align=descent, head=net.write["image"])
    joint = mj.chain(align=mj.identity(), head=net.write["image"])
    bridge = mj.Adaptation(croma.init, net.use_as_bridge)

    def sample(dataset, key):
        """A training task, with labels for one image of each character."""
        draw = mj.data.episodes(config.ways, 1 + config.pairs, config.queries)
        return hide(config, draw(dataset, key), 1)

    learned = {"alone": alone}
    for name, adaptation in (("croma", croma), ("joint", joint)):
        task_loss = net.on_features(mj.query_loss(adaptation, net.loss))
        params = adaptation.init(net.start, key)
        learned[name] = trainer(config, task_loss, sample, 8)(params, data)

    @jax.jit
    def look(params, tasks):
        """{shots: the tasks of this example, with features}. Bodies run once for each net."""

        def of_shots(shots):
            def of_task(task):
                return net.see_task(params, hide(config, task, shots))

            return jax.lax.map(of_task, tasks, batch_size=config.tasks_at_once)

        return {shots: of_shots(shots) for shots in config.shots}

    def scorer(adaptation):
        """(params, {shots: tasks of features}) -> {shots: accuracy of each task}."""
        task_loss = mj.query_loss(adaptation, net.loss)

        @jax.jit
        def score(params, tasks):
            return mj.evaluate(task_loss, params, tasks, key)["accuracy"].per_task

        return lambda params, seen: {
            shots: np.asarray(score(params, tasks)) for shots, tasks in seen.items()
        }

    seen = {name: look(params, tasks["test"]) for name, params in learned.items()}
    score_croma = scorer(croma)

    # The net of joint alignment, with CroMA's adaptation and the rate that does best on validation.
    def joint_at_rate(rate):
        rule = jax.tree.map(lambda leaf: jnp.full_like(leaf, rate), learned["croma"].rule)
        return learned["joint"]._replace(rule=rule)

    on_validation = look(learned["joint"], tasks["validation"])
    tried = {}
    for rate in config.rates_after_joint:
        tried[rate] = score_croma(joint_at_rate(rate), on_validation)
    rate = best("rate after joint alignment", tried)

    # From scratch: all weights of a new net, from the pairs of the task alone.
    fit_pairs = mj.inner_loop(
        mj.modalities.pair_loss(net.run_and_align, "image", "stroke", contrast),
        mj.learned(optax.adam, config.scratch_rates[0]),
        steps=config.scratch_steps,
        differentiate=mj.first_order(),
    )
    score_joint = mj.query_loss(joint, net.loss)

    @jax.jit
    def from_scratch(rate, tasks):
        """{shots: accuracy of each task} of the net that has seen the pairs, with prototypes."""
        start = {"map": net.start.fast["map"], "body": net.start.slow["body"]}

        def of_task(task):
            pairs = mj.take(hide(config, task, 1).support, pair_rows(config))
            fast = fit_pairs.adapt(mj.Params(start, (), rate), pairs, key).fast
            fitted = joint.init(mj.Params({"map": fast["map"]}, {"body": fast["body"]}), key)
            found = {}
            for shots in config.shots:
                seen = net.see_task(fitted, hide(config, task, shots))
                _, metrics = score_joint(fitted, seen, key)
                found[shots] = metrics["accuracy"]
            return found

        return jax.lax.map(of_task, tasks, batch_size=config.tasks_at_once)

    tried = {rate: from_scratch(rate, tasks["validation"]) for rate in config.scratch_rates}
    labelled = tester_of_strokes(config, net)(alone, tasks["test"])
    return {
        "CroMA": score_croma(learned["croma"], seen["croma"]),
        "joint alignment": scorer(joint)(learned["joint"], seen["joint"]),
        "joint, then adapted": score_croma(joint_at_rate(rate), seen["joint"]),
        "from scratch": from_scratch(best("rate from scratch", tried), tasks["test"]),
        "pairs as a bridge": scorer(bridge)(alone, seen["alone"]),
        "labelled strokes": dict.fromkeys(config.shots, labelled["pairs"]),
    }


def few_drawings(net, alone, data, number=2):
    """Data with `number` drawings of each character, and the teacher's features as images."""
    rng = np.random.default_rng(0)
    every = np.tile(np.arange(20), (data.classes, 1))
    chosen = rng.permuted(every, axis=1)[:, :number]
    rows = (np.asarray(data.start)[:, None] + chosen).reshape(-1)
    batch = mj.Batch(mj.data.take_examples(data, rows), data.y[rows])

    @jax.jit
    def teacher(params, batch):
        return net.embed["image"](params, net.see(params, batch, ["image"]).x)

    value = {**batch.x.value, "image": teacher(alone, batch)}
    return mj.data.dataset(batch.x._replace(value=value), batch.y)


def distil(config, net, data, tasks, alone):
    """{row: {shots: accuracy of each test task}} of students that learn from few strokes.

    Their teacher is the encoder of images of `alone`; the arguments are those of `cross_modal`.
    """
    encoder = mj.nets.identity_encoder
    few = few_drawings(net, alone, data)
    test_strokes = tester_of_strokes(config, net)

    def test(params, part):
        found = test_strokes(params, tasks[part])
        return {shots: found[str(shots)] for shots in config.shots}

    def sample(data, key):
        """A task of few drawings. Its context is how strong the teaching is."""
        few, strengths = data
        return mj.data.episodes(20, 1, 1)(few, key)._replace(context=strengths)

    def student_loss(params, task, key):
        """The loss by strokes alone, plus the distance of features and logits to the teacher's."""
        ways = len(task.support.y)  # there is one shot
        feature_strength, logit_strength = task.context

        def embedded(batch):
            """The batch with the student's embeddings in the place of strokes."""
            strokes = net.embed["stroke"](params, net.see(params, batch, ["stroke"]).x)
            value = {"image": batch.x.value["image"], "stroke": strokes}
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
        for what, strength, distance in (
            (encoder, feature_strength, mj.modalities.distill_features),
            (logits, logit_strength, mj.modalities.distill_logits),
        ):
            match = mj.modalities.pair_loss(what, "stroke", "image", distance)
            value += strength * match(params, query, key)[0]
        return value, {}

    train = trainer(config, student_loss, sample, 4)

    def teach(feature_strength, logit_strength):
        """A student after training."""
        _, params = make(config, 2)
        strengths = jnp.asarray(feature_strength), jnp.asarray(logit_strength)
        return train(params, (few, strengths))

    def best_student(what, students):
        """The student, of {strength: params}, that does best on validation tasks."""
        found = {strength: test(params, "validation") for strength, params in students.items()}
        return students[best(what, found)]

    by_features = {strength: teach(strength, 0.0) for strength in config.feature_strengths}
    by_logits = {strength: teach(0.0, strength) for strength in config.logit_strengths}
    students = {
        "no teaching": teach(0.0, 0.0),
        "taught to see alike": best_student("strength of features", by_features),
        "taught to answer alike": best_student("strength of answers", by_logits),
        "all strokes known": alone,
    }
    return {row: test(params, "test") for row, params in students.items()}


def main(config, out):
    """Trains every learner, tests all on the same tasks, and then distils."""
    _cache = common.reuse_programs()  # all students are trained by the same program
    started = time.perf_counter()

    drawings = mj.data.omniglot_strokes()
    names = {part: [] for part in ("train", *ALPHABETS)}
    for name in drawings.names:
        names[part_of(name)].append(name)
    split = mj.data.class_split("alphabets", names)
    parts = {part: mj.data.select_part(drawings, split, part) for part in split.parts}
    draw = mj.data.episodes(config.ways, drawings_of_each(config), config.queries)
    sample = jax.jit(mj.data.meta_batch(draw, config.tasks))
    tasks = {
        "validation": sample(parts["validation"], jax.random.key(1)),
        "test": sample(parts["test"], jax.random.key(2)),
    }

    net = Net(config)
    train = parts["train"]
    learn_alone = trainer(config, net.each_alone, mj.data.episodes(10, 1, 2), 4)
    alone = learn_alone(net.start, train)
    from_images = cross_modal(config, net, train, tasks, alone)
    title = "Strokes named from {} labelled images each; CroMA minus it, paired"
    rows = {"CroMA": table(title, from_images, "CroMA", -1)}
    from_strokes = distil(config, net, train, tasks, alone)
    title = "Strokes named from {} labelled strokes each; it minus no teaching, paired"
    rows["no teaching"] = table(title, from_strokes, "no teaching", 1)

    took = time.perf_counter() - started
    report = {
        **common.header(),
        "seconds": took,
        "steps": config.steps,
        "tasks": config.tasks,
        "pairs": config.ways * config.pairs,
        "classes": [part.classes for part in parts.values()],
        "digest": split.digest,
        "rows": rows,
    }
    common.finish(out, "alignment", report, plot)


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
    common.save(figure, path, common.OF_ONE_NET)


if __name__ == "__main__":
    common.run(main, Config(), TINY, "steps", "tasks", description=__doc__)
