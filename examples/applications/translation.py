"""Dates, quantities and number words in languages never seen: fine-tuning, or a net that looks up.

What is translated is small: "2021-03-14" is "14. März 2021" in German, "3 h" is "3 Stunden", "42"
is "zweiundvierzig". But it is real, in 173 languages (Unicode's CLDR in `babel`, and `num2words`).
The test languages are neither trained on nor used to choose anything; from each there are a few
pairs. One net from sequence to sequence is trained in two ways: jointly, and then fine-tuned on the
pairs of the new language; or meta-trained to look things up in the pairs, which takes a little less
time.

One run tests a quarter of the languages. The four folds test 172 of them once each; the other one
has characters that no training language has. `--thorough` tries more settings of fine-tuning, as in
the table of docs/applications.md. The script needs no file.

    python examples/applications/translation.py --fold 0 --out .
    python examples/applications/translation.py --fold 0 --steps 1500 --thorough --out .
"""

import pathlib
import re
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

KINDS = ("date", "unit", "number")  # of phrases; a class is a kind in a language
UPPER_LAYERS = ("language", "after", "norm", "choose", "bias")

# Settings of fine-tuning that are tried: (steps, layers), rates.
SETTINGS = (((60, "all"), (3e-4, 1e-3)),)
THOROUGH = (
    *SETTINGS,
    ((120, "all"), (1e-4, 3e-4, 1e-3)),
    ((240, "all"), (1e-4, 3e-4)),
    ((60, "upper"), (3e-3,)),
)


class Config(NamedTuple):
    """The settings of a run."""

    shots: int = 5  # pairs to learn from
    fewer_shots: tuple = (1, 3)  # which are tested too
    queries: int = 8
    draws: int = 2  # test tasks of each class
    width: int = 64  # of the net
    outer_rate: float = 3e-3
    tasks: int = 4  # in a step of meta-training
    rows: int = 64  # in a step of joint training, which then takes as long as one that looks up
    fuse: int = 20  # steps in one compiled call
    piece: int = 32  # tasks that are evaluated at once
    settings: tuple = SETTINGS  # of fine-tuning, what is tried
    steps: int = 1200  # outer steps of each training
    fold: int = 0  # 0 to 3: which languages are the test; and the seed of the nets
    thorough: bool = False  # more settings of fine-tuning, of up to 240 steps
    classes: int = 10_000  # of each part, at most


TINY = Config(
    shots=2,
    queries=2,
    steps=2,
    width=4,
    tasks=2,
    rows=4,
    fuse=1,
    piece=8,
    draws=1,
    classes=8,
    fewer_shots=(),
    settings=(((2, "all"), (1e-3,)),),
)


def language_of(name):
    """The language of a class, such as "de" of "de/date"."""
    return name.partition("/")[0]


def over_languages(values):
    """Mean and half the width of the 95 % interval."""
    summary = mj.summarize(jnp.array(list(values.values())))
    return [summary.mean.item(), summary.interval.item()]


def month_or_unit(source):
    """What stands second in "2021-03-14" and in "3 h"; a number such as "42" has none."""
    return re.split("[- ]", source)[1:2]


def replace_numbers(target, old_source, new_source):
    """The target with the numbers of the old source replaced by those of the new one."""
    old = [str(int(number)) for number in re.findall(r"\d+", old_source)]
    new = [str(int(number)) for number in re.findall(r"\d+", new_source)]
    changes = dict(zip(old, new, strict=True))
    pieces = re.split(r"(\d+)", target)
    return "".join(changes.get(piece.lstrip("0"), piece) for piece in pieces)


def main(config, out):
    """Trains jointly and meta-trains, tunes and tests, and shows some translations."""
    key = jax.random.key(config.fold)
    started = time.perf_counter()

    # Data: three sets of languages.
    corpus = mj.data.phrases()
    split = mj.data.split_languages(corpus, fold=config.fold)
    parts = {name: mj.data.select_part(corpus.data, split, name) for name in split.parts}
    parts = {
        name: mj.data.select(part, np.arange(part.classes) < config.classes)
        for name, part in parts.items()
    }

    languages = {part: len(set(map(language_of, data.names))) for part, data in parts.items()}
    print(f"Languages: {', '.join(f'{number} to {part}' for part, number in languages.items())}")

    def tasks_of(part, shots, draws, seed):
        """Tasks of every class, stacked along a leading axis. Rows beyond `shots` are masked."""
        data = parts[part]

        def task_of_class(label, key):
            task = mj.data.translation_task(data, label, key, shots=shots, queries=config.queries)
            padding = ((0, config.shots - shots), (0, 0))
            support = jax.tree.map(lambda leaf: jnp.pad(leaf, padding), task.support)
            weight = (jnp.arange(config.shots) < shots).astype(jnp.float32)
            return task._replace(support=support._replace(weight=weight))

        labels = jnp.repeat(jnp.arange(data.classes), draws)
        keys = jax.random.split(jax.random.key(seed), len(labels))
        return jax.jit(jax.vmap(task_of_class))(labels, keys)

    validation = tasks_of("validation", config.shots, draws=1, seed=1)
    test = {shots: tasks_of("test", shots, draws=1, seed=2 + shots) for shots in config.fewer_shots}
    test[config.shots] = tasks_of("test", config.shots, draws=config.draws, seed=2 + config.shots)

    def by_language(per_task, shots=config.shots, kind=""):
        """{language: percent}, the mean of its tasks, or of those of one kind.

        Every interval is over languages.
        """
        values = {}
        for label, value in zip(test[shots].context.tolist(), np.asarray(per_task), strict=True):
            name = parts["test"].names[label]
            if name.endswith(kind):
                values.setdefault(language_of(name), []).append(value)
        return {language: 100 * float(np.mean(values[language])) for language in sorted(values)}

    def make_net(languages=1):
        net = mj.nets.Translator(
            len(corpus.characters) + 2,
            mj.data.SOURCE_LENGTH,
            mj.data.TARGET_LENGTH,
            width=config.width,
            languages=languages,
            rngs=nnx.Rngs(config.fold),
        )
        return mj.nets.functional(net)

    def train(title, task_loss, params, sample):
        """Trains for the given steps. Returns the params, and the seconds of all cores together."""
        print(f"\n{title}")
        adam = optax.adam(optax.cosine_decay_schedule(config.outer_rate, config.steps))
        outer = mj.outer_loop(task_loss, optax.chain(optax.clip_by_global_norm(1.0), adam))
        before = time.process_time()
        state, _ = mj.training.fit(
            outer,
            outer.init(params),
            sample,
            parts["train"],
            key,
            steps=config.steps,
            fuse=config.fuse,
            every=10 * config.fuse,
        )
        return state.params, time.process_time() - before

    def scorer(task_loss):
        """(params, tasks) -> exact match of each task, in pieces that share one program."""

        @jax.jit
        def of_piece(params, tasks):
            return mj.evaluate(task_loss, params, tasks, key, tasks_at_once=8)["accuracy"].per_task

        def accuracy(params, tasks):
            number = len(tasks.query.y)
            pieces = []
            for first in range(0, number, config.piece):
                rows = (first + np.arange(config.piece)) % number  # the last one is filled up
                piece = jax.tree.map(lambda leaf, rows=rows: leaf[rows], tasks)
                pieces.append(of_piece(params, piece))
            return jnp.concatenate(pieces)[:number]

        return accuracy

    # Joint training: all languages at once, each with a vector; a new one starts from their mean.
    joint_apply, params = make_net(languages=parts["train"].classes)
    loss = mj.losses.sequence_cross_entropy(joint_apply)

    def sample_rows(dataset, key):
        """One batch of pairs of all languages, each with the index of its class."""
        rows = jax.random.randint(key, (1, config.rows), 0, len(dataset.y))
        batch = mj.data.phrase_pairs(dataset, rows)
        return batch._replace(x={**batch.x, "language": dataset.y[rows]})

    joint, joint_seconds = train("Joint training", mj.supervised(loss), params, sample_rows)
    mean_language = joint.fast["language"].mean(axis=0, keepdims=True)
    weights = {**joint.fast, "language": mean_language}

    # Fine-tuning: Adam on the pairs. The rate is a parameter, so that one program serves all rates.
    def split_layers(layers):
        """The weights as params whose upper layers are fast, or all of them."""
        names = weights if layers == "all" else UPPER_LAYERS
        fast = {name: weights[name] for name in weights if name in names}
        slow = {name: leaf for name, leaf in weights.items() if name not in fast}
        return mj.Params(fast, slow)

    print("\nFine-tuning: exact match in % on the validation languages")
    tried = {}  # {(steps, layers, rate): (accuracy, descent, scorer, params)}
    for (steps, layers), rates in THOROUGH if config.thorough else config.settings:
        descent = mj.inner_loop(
            loss, mj.learned(optax.adam, 1e-3), steps=steps, differentiate=mj.first_order()
        )
        accuracy = scorer(mj.query_loss(descent, loss))
        for rate in rates:
            params = split_layers(layers)._replace(rule=jnp.asarray(rate))
            mean = 100 * accuracy(params, validation).mean().item()
            tried[steps, layers, rate] = mean, descent, accuracy, params
            print(f"  {steps:3} steps, {layers:<5} layers, rate {rate:.0e}: {mean:.1f}")
    chosen = max(tried, key=lambda setting: tried[setting][0])
    _, tuning, tuned_accuracy, tuned = tried[chosen]

    # Meta-training: the pairs are written into a memory, and the net learns to look up in it.
    apply, params = make_net()
    remembering = mj.nets.remember_pairs(apply)
    looking_up = mj.nets.with_memory(apply)
    meta_loss = mj.query_loss(remembering, mj.losses.sequence_cross_entropy(looking_up))
    sample = mj.data.meta_batch(mj.data.translations(config.shots, config.queries), config.tasks)
    meta, meta_seconds = train("Meta-training", meta_loss, params, sample)
    meta_accuracy = scorer(meta_loss)

    # No net at all: rules that know what a month, a unit and a number are.
    def strings(ids):
        return [mj.data.phrase_text(row, corpus.characters) for row in ids]

    def by_hand(task, replace):
        """Exact match of a rule: it takes the target of the pair with the same month or unit.

        Args:
            task: one task, of NumPy arrays.
            replace: whether the numbers of the query take the place of those of the pair.
        """
        sources = strings(task.support.x["source"])
        targets = strings(task.support.y)
        queries = strings(task.query.x["source"])
        correct = []
        for query, truth in zip(queries, strings(task.query.y), strict=True):
            same = [month_or_unit(source) == month_or_unit(query) for source in sources]
            pair = int(np.argmax(same))
            answer = targets[pair]
            if replace:
                answer = replace_numbers(answer, sources[pair], query)
            correct.append(answer == truth)
        return np.mean(correct)

    # The table.
    def task_at(index):
        return jax.tree.map(lambda leaf: np.asarray(leaf[index]), test[config.shots])

    tasks = [task_at(index) for index in range(len(test[config.shots].context))]
    scores = {
        "Meta-trained": {shots: meta_accuracy(meta, drawn) for shots, drawn in test.items()},
        "Fine-tuned": {shots: tuned_accuracy(tuned, drawn) for shots, drawn in test.items()},
        "By hand: same word, other numbers": {
            config.shots: np.array([by_hand(task, replace=True) for task in tasks])
        },
        "By hand: same word, copied": {
            config.shots: np.array([by_hand(task, replace=False) for task in tasks])
        },
    }
    print(f"\nExact match in % on {languages['test']} unseen languages, and intervals over them")
    rows = []
    for method, by_shots in scores.items():
        paired = by_shots[config.shots] - scores["Fine-tuned"][config.shots]
        row = {f"{shots} pairs": by_language(values, shots) for shots, values in by_shots.items()}
        row |= {kind: by_language(by_shots[config.shots], kind=kind) for kind in KINDS}
        row["minus fine-tuned"] = by_language(paired)
        cells = [f"{name} {common.cell(over_languages(row[name]))}" for name in row if row[name]]
        print(f"  {method:<35}" + "  ".join(cells))
        rows.append({"method": method, **row})
    took = time.perf_counter() - started
    print(f"{took:.0f} s in all. Fine-tuning as chosen: {chosen}")
    print(f"Processor seconds: joint {joint_seconds:.0f}, meta {meta_seconds:.0f}")
    report = {
        **common.header(),
        "seconds": took,
        "steps": config.steps,
        "fold": config.fold,
        "training_processor_seconds": {"joint": joint_seconds, "meta": meta_seconds},
        "languages": languages,
        "test_classes": {
            kind: sum(name.endswith(kind) for name in parts["test"].names) for kind in KINDS
        },
        "digest": split.digest,
        "test_tasks": len(tasks),
        "dropped": split.dropped,
        "fine_tuning": {
            "chosen": chosen,
            "validation": {str(setting): found[0] for setting, found in tried.items()},
        },
        "rows": rows,
    }

    # Every fifth date, every third unit and every second number: the answers to one query.
    def translator(adaptation, net, params):
        """A function of a task: the answers to its queries, as texts."""

        @jax.jit
        def answers(task):
            adapted = adaptation.adapt(params, task.support, key)
            source = task.query.x["source"]
            return mj.nets.translate(net, adapted, source, length=mj.data.TARGET_LENGTH)

        return lambda task: strings(answers(task))

    translators = {
        "meta-trained": translator(remembering, looking_up, meta),
        "fine-tuned": translator(tuning, joint_apply, tuned),
    }
    for kind, step in (("date", 5), ("unit", 3), ("number", 2)):
        labels = [label for label, name in enumerate(parts["test"].names) if name.endswith(kind)]
        for label in labels[::step]:
            task = tasks[config.draws * label]
            true = strings(task.query.y)[0]
            print(f"\n{parts['test'].names[label]}: {strings(task.query.x['source'])[0]} = {true}")
            for name, answers in translators.items():
                answer = answers(task)[0]
                print(f"  {name:<13} {answer}  ({'right' if answer == true else 'wrong'})")
    common.finish(out, f"translation-{config.fold}", report, plot)


def plot(report, path):
    """Exact match of every kind of phrase, and by the number of pairs."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 4.2), width_ratios=(1.1, 1))
    kinds = {"date": "dates", "unit": "quantities", "number": "number words"}
    measured = {}
    lines = {}
    for row in report["rows"]:
        method = row["method"].replace(": ", ":\n")
        for kind, name in kinds.items():
            if row[kind]:
                mean, half = over_languages(row[kind])
                half = np.nan_to_num(half)  # one language has no interval
                measured.setdefault(name, {})[method] = mean / 100, half / 100
        shots = sorted(int(name.split()[0]) for name in row if name.endswith(" pairs"))
        means, halves = zip(*(over_languages(row[f"{n} pairs"]) for n in shots), strict=True)
        lines[row["method"]] = shots, means, halves
    mj.plots.accuracies(left, measured, title="Languages never seen, from five pairs")
    left.set_xlabel("exact match, %")
    xlabel = "pairs of the unseen language"
    mj.plots.curves(right, lines, xlabel=xlabel, ylabel="exact match, %", title="All phrases")
    right.set_ylim(0, 100)
    right.set_xticks(lines["Fine-tuned"][0])
    right.legend(fontsize=8)
    number = report["languages"]["test"]
    common.save(figure, path, f"95 % intervals over {number} languages, of one training each")


if __name__ == "__main__":
    common.run(main, Config(), TINY, "fold", "steps", "thorough", description=__doc__)
