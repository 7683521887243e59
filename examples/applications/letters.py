"""Letters of unseen scripts from one or five examples: four methods on the same tasks.

Raw pixels, fine-tuning, MAML and prototypical networks (ProtoNets) are compared. The script needs
no file: the letters are those of the fonts inside matplotlib. All nets have the same layers and are
trained for the same time on Latin letters. Armenian and Georgian letters choose the settings of
fine-tuning, and Greek and Cyrillic letters are the test. The script prints a table, writes it as
JSON and draws a picture.

    python examples/applications/letters.py --seconds 12 --out .
"""

import functools
import pathlib
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from flax import nnx

import metajax as mj

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # the folder of common.py
import common


class Config(NamedTuple):
    """The settings of a run."""

    ways: int = 5  # classes of a task
    shots: tuple = (1, 5)  # support examples of each class
    queries: int = 7  # query examples of each class
    training_ways: int = 20  # of ProtoNets, which learn better features from more classes
    width: int = 32  # channels of the net
    outer_rate: float = 5e-3
    inner_rate: float = 0.5  # of MAML
    inner_steps: int = 3  # of MAML
    test_tasks: int = 600
    validation_tasks: int = 60
    # Fine-tuning is tried with these rates of Adam, and with these settings: how many steps, which
    # layers move, and what the head starts from.
    rates: tuple = (1e-3, 3e-3, 1e-2)
    settings: tuple = (
        (5, "all", "prototypes"),
        (20, "head", "prototypes"),
        (20, "head", "zeros"),
        (10, "all", "zeros"),
    )
    seconds: float = 12.0  # training time of each net


TINY = Config(
    seconds=0.01,
    shots=(1,),
    queries=1,
    training_ways=5,
    width=2,
    test_tasks=4,
    validation_tasks=4,
    inner_steps=1,
    rates=(0.001,),
    settings=((2, "all", "prototypes"),),
)


def main(config, out):
    """Trains and tests four methods on the same tasks, and draws one task and how they learned."""
    key = jax.random.key(0)
    started = time.perf_counter()

    # Data: three sets of classes whose scripts are disjoint, and tasks that all methods share.
    letters = mj.data.glyphs()
    split = mj.data.split_scripts(
        letters, train=["Latin"], validation=["Armenian", "Georgian"], test=["Greek", "Cyrillic"]
    )
    parts = {name: mj.data.select_part(letters, split, name) for name in split.parts}
    print(f"Classes: {', '.join(f'{part.classes} to {name}' for name, part in parts.items())};")
    print(
        f"{len(split.dropped)} classes are dropped, as they look like a letter of an earlier part."
    )

    def draw(part, shots, tasks, seed):
        """Tasks of one part, stacked along a leading axis."""
        sample = mj.data.meta_batch(mj.data.episodes(config.ways, shots, config.queries), tasks)
        return jax.jit(sample)(parts[part], jax.random.key(seed))

    validation = {
        shots: draw("validation", shots, config.validation_tasks, seed=1) for shots in config.shots
    }
    test = {shots: draw("test", shots, config.test_tasks, seed=2) for shots in config.shots}

    @functools.partial(jax.jit, static_argnums=0)
    def accuracy_of_piece(task_loss, params, tasks):
        return mj.evaluate(task_loss, params, tasks, key, tasks_at_once=4)["accuracy"].per_task

    def accuracy(task_loss, params, tasks):
        """Accuracy over tasks, in pieces of one size: one program serves validation and test."""
        per_task = []
        for first in range(0, len(tasks.query.y), config.validation_tasks):
            rows = slice(first, first + config.validation_tasks)
            piece = jax.tree.map(lambda leaf, rows=rows: leaf[rows], tasks)
            per_task.append(accuracy_of_piece(task_loss, params, piece))
        return mj.summarize(jnp.concatenate(per_task))

    def make_net(outputs):
        return mj.nets.Conv4(outputs, width=config.width, rngs=nnx.Rngs(0))

    def train(title, task_loss, params, sample, tasks, every, evaluate=None):
        """Trains for the given seconds. Returns the params and the records."""
        print(f"\n{title}")
        outer = mj.outer_loop(task_loss, optax.adam(config.outer_rate))
        state, records = mj.training.fit(
            outer,
            outer.init(params),
            mj.data.meta_batch(sample, tasks),
            parts["train"],
            key,
            steps=10**6,
            seconds=config.seconds,
            fuse=10,
            every=every,
            evaluate=evaluate,
        )
        return state.params, records

    def validate(task_loss):
        """What `train` evaluates now and then: accuracy on the validation scripts, 1 shot."""
        return lambda params, key: {"accuracy": accuracy(task_loss, params, validation[1])}

    results = {}  # {method: {shots: accuracy}}

    # Raw pixels: the nearest mean of the images themselves. There is nothing to train.
    pixels, nothing = mj.nets.from_function(lambda params, x: x.reshape(len(x), -1))
    nearest = mj.query_loss(
        mj.prototypes(pixels, config.ways), mj.losses.cross_entropy(mj.linear_head(pixels))
    )
    results["Raw pixels"] = {
        shots: accuracy(nearest, nothing, test[shots]) for shots in config.shots
    }

    # Fine-tuning: a net is trained on the union of all classes; then come a few steps of Adam.
    learner = mj.algorithms.pretraining(make_net(parts["train"].classes))
    pretrained, _ = train(
        "Pretraining on the union of the classes",
        learner.task_loss,
        learner.params,
        mj.data.batches(size=128),
        tasks=1,
        every=500,
    )
    body = {name: leaf for name, leaf in pretrained.fast.items() if name != "head"}
    head = {
        "head": {"kernel": jnp.zeros((config.width, config.ways)), "bias": jnp.zeros(config.ways)}
    }
    start_of = {"all": mj.Params({**body, **head}, {}), "head": mj.Params(head, body)}

    def fine_tuning(steps, layers, first_head):
        """An adaptation and its task loss. One program serves all rates, which are parameters."""
        fast = nnx.PathContains("head") if layers == "head" else nnx.Param
        apply, _ = mj.nets.functional(make_net(config.ways), fast=fast)
        loss = mj.losses.cross_entropy(apply)
        descent = mj.inner_loop(
            loss,
            mj.learned(optax.adam, config.rates[0]),
            steps=steps,
            differentiate=mj.first_order(),
        )
        write = mj.identity()
        if first_head == "prototypes":
            write = mj.prototypes(functools.partial(apply, method="embed"), config.ways)
        adaptation = mj.chain(head=write, descent=descent)
        return adaptation, mj.query_loss(adaptation, loss)

    def with_rate(adaptation, params, rate):
        params = adaptation.init(params, key)
        return params._replace(rule={**params.rule, "descent": jnp.asarray(rate)})

    tuners = {setting: fine_tuning(*setting) for setting in config.settings}
    results["Fine-tuned"] = {}
    chosen = {}
    for shots in config.shots:
        print(f"\nFine-tuning on {common.shots_label(shots)}: accuracy in % on validation scripts")
        tried = {}
        for setting, (adaptation, task_loss) in tuners.items():
            for rate in config.rates:
                params = with_rate(adaptation, start_of[setting[1]], rate)
                mean = 100 * accuracy(task_loss, params, validation[shots]).mean.item()
                tried[*setting, rate] = mean, task_loss, params
                steps, layers, first_head = setting
                print(
                    f"  {steps:2} steps, {layers:>4} layers, from {first_head}, "
                    f"rate {rate}: {mean:.1f}"
                )
        chosen[shots] = max(tried, key=lambda choice: tried[choice][0])
        _, task_loss, params = tried[chosen[shots]]
        results["Fine-tuned"][shots] = accuracy(task_loss, params, test[shots])

    # MAML: the start of a few steps of descent is learned.
    maml = mj.algorithms.maml(
        make_net(config.ways), inner_rate=config.inner_rate, inner_steps=config.inner_steps
    )
    maml_params, maml_records = train(
        "MAML",
        maml.task_loss,
        maml.params,
        mj.data.episodes(config.ways, 1, config.queries),
        tasks=8,
        every=50,
        evaluate=validate(maml.task_loss),
    )
    results["MAML"] = {
        shots: accuracy(maml.task_loss, maml_params, test[shots]) for shots in config.shots
    }

    def accuracy_by_steps(params, task, key):
        """A task loss of our own, for the picture: accuracy after 0, 1, ... 10 inner steps."""
        loss = mj.losses.cross_entropy(maml.apply)
        one_step = mj.inner_loop(loss, optax.sgd(config.inner_rate), steps=1)

        def step(params, _):
            _, metrics = loss(params, task.query, key)
            return one_step.adapt(params, task.support, key), metrics

        _, metrics = jax.lax.scan(step, params, length=11)
        return jnp.zeros(()), metrics

    by_steps = accuracy(accuracy_by_steps, maml_params, test[1])

    # ProtoNets: the features are learned, and the head is written from the class means. Training
    # has more ways than the test.
    protonets = mj.algorithms.protonets(make_net(config.ways), config.ways)
    more_ways = mj.algorithms.protonets(make_net(config.ways), config.training_ways)
    protonets_params, protonets_records = train(
        "ProtoNets",
        more_ways.task_loss,
        more_ways.params,
        mj.data.episodes(config.training_ways, 1, config.queries),
        tasks=1,
        every=100,
        evaluate=validate(protonets.task_loss),
    )
    results["ProtoNets"] = {
        shots: accuracy(protonets.task_loss, protonets_params, test[shots])
        for shots in config.shots
    }

    # The table.
    print(f"\n{config.ways}-way accuracy in % on {config.test_tasks} tasks of unseen scripts")
    print("(and the difference to fine-tuning, paired by task)")
    rows = []
    for method, by_shots in results.items():
        row = {"method": method}
        line = f"  {method:<12}"
        for shots, summary in by_shots.items():
            measured = common.percent(summary.per_task)
            paired = common.percent(summary.per_task - results["Fine-tuned"][shots].per_task)
            row[f"{shots} shot"] = measured + paired
            line += f"   {shots} shot {common.cell(measured)} ({common.difference(paired)})"
        print(line)
        rows.append(row)
    took = time.perf_counter() - started
    print(f"{took:.0f} s in all, {config.seconds:.0f} s to train each net. Fine-tuning: {chosen}")
    report = {
        **common.header(),
        "seconds": took,
        "training_seconds": config.seconds,
        "digest": split.digest,
        "test_tasks": config.test_tasks,
        "dropped": len(split.dropped),
        "fine_tuning": {f"{shots} shot": list(setting) for shots, setting in chosen.items()},
        "rows": rows,
    }
    common.write_report(out / "letters.json", report)

    # The picture: one task, how the nets learned, and how MAML adapts.
    task = jax.tree.map(lambda leaf: leaf[0], test[1])
    predict = jax.jit(mj.predict, static_argnums=(0, 1))
    logits = predict(
        protonets.adaptation, protonets.apply, protonets_params, task.support, task.query.x, key
    )
    records = {"MAML": maml_records, "ProtoNets": protonets_records}
    plot(task, logits.argmax(axis=1), records, by_steps, out / "letters.png")
    print(f"See letters.png and letters.json in {out}.")


def plot(task, answers, records, by_steps, path):
    """One task with the answers of ProtoNets, how the nets learned, and how MAML adapts.

    Args:
        task: a task of one shot.
        answers: the labels that ProtoNets predict for its queries.
        records: {method: records of `fit`}.
        by_steps: accuracy after 0, 1, ... 10 inner steps, as a summary over tasks.
        path: where to write the picture.
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.2), width_ratios=(1.6, 1, 1))
    title = "One example of each letter, and the answers of ProtoNets"
    mj.plots.task(left, task, answers, title=title)
    curves = {}
    for name, of_method in records.items():
        seconds = [record["seconds"] for record in of_method]
        mean = [100 * record["evaluate/accuracy"] for record in of_method]
        half = [100 * record["evaluate/accuracy/interval"] for record in of_method]
        curves[name] = seconds, mean, half
    ylabel = "accuracy, 1 shot, %"
    title = "Learning, on validation scripts"
    mj.plots.curves(middle, curves, xlabel="seconds of training", ylabel=ylabel, title=title)
    curves = {"MAML": (range(11), 100 * by_steps.mean, 100 * by_steps.interval)}
    title = "Adapting, on unseen scripts"
    mj.plots.curves(right, curves, xlabel="inner steps", ylabel=ylabel, title=title)
    common.save(figure, path, common.OF_ONE_NET)


if __name__ == "__main__":
    common.run(main, Config(), TINY, "seconds", description=__doc__)
