"""What five labels add to a task of one shot, chosen in several ways or drawn.

A task has one labelled example of each of five classes, and nine more of each without a label. Five
of these 45 are labelled in each of these ways, and the net adapts again:

- random: the control, the mean of eight draws;
- uncertainty: the answers with most entropy;
- coverage: each as far as possible from what is labelled;
- learned: a prediction, learned on validation tasks, of what each label gains.

All five are chosen before the first is known. The nets and heads are those of single_tasks.py.
Writes benchmarks/results/labels.json.

METAJAX_DATA=folder python benchmarks/labels.py
METAJAX_DATA=folder python benchmarks/labels.py --tiny --out /tmp/results    # that it runs
"""

import argparse
import pathlib

import harness
import jax
import jax.numpy as jnp
from single_tasks import DATA, HEADS, KEY, WAYS, cell, embedded, trained

import metajax as mj
from metajax import diagnostics, nets

POOL, QUERIES, CHOSEN, DRAWS = 9, 10, 5, 8

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--data", nargs="+", default=["Omniglot", "CLINC150"], choices=DATA)
parser.add_argument("--heads", nargs="+", default=["class means", "ridge"], choices=HEADS)
parser.add_argument("--steps", type=int, default=600)
parser.add_argument("--tests", type=int, default=600)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def measure(setting, head, steps, tests):
    """{way of choosing: [tests] accuracies}."""
    embed, of_head = trained(setting, head, steps)
    adaptation, apply = (
        head.adaptation(nets.identity_encoder, WAYS),
        mj.linear_head(nets.identity_encoder),
    )
    fewest = min(int(setting.parts[part].count.min()) for part in ("validation", "test"))
    draw = mj.data.episodes(WAYS, 1 + POOL, min(QUERIES, fewest - 1 - POOL))

    def prepared(part, key):
        """(accuracy after labelling some of the pool, statistics of the pool) of a task."""
        task = draw(setting.parts[part], jax.random.fold_in(key, 0))
        support, queries = embedded(embed, task.support, task.query.x)
        places = jnp.arange(WAYS * (1 + POOL)).reshape(WAYS, -1)
        first, rest = places[:, 0], places[:, 1:].ravel()
        logits = mj.predict(
            adaptation, apply, of_head, mj.inner.take(support, first), support.x[rest], KEY
        )

        def accuracy(chosen):
            known = mj.inner.take(support, jnp.concatenate([first, rest[chosen]]))
            answers = mj.predict(adaptation, apply, of_head, known, queries, KEY)
            return (answers.argmax(axis=1) == task.query.y).mean()

        def statistics(chosen):
            return diagnostics.candidate_statistics(
                logits, support.x[rest], support.x[first], chosen
            )

        return accuracy, statistics

    def gains(key):
        accuracy, statistics = prepared("validation", key)
        before = accuracy(jnp.zeros(0, int))
        after = jax.vmap(lambda one: accuracy(one[None]))(jnp.arange(WAYS * POOL))
        return statistics(jnp.zeros(WAYS * POOL, bool)), after - before

    def chosen(key):
        accuracy, statistics = prepared("test", key)
        choose = lambda score: diagnostics.choose_labels(score, WAYS * POOL, CHOSEN)
        learned = lambda chosen: diagnostics.predict_accuracy(predictor, statistics(chosen))[0]
        uniform = lambda one: lambda chosen: jax.random.uniform(one, chosen.shape)
        draws = [accuracy(choose(uniform(one))) for one in jax.random.split(key, DRAWS)]
        return {
            "none": accuracy(jnp.zeros(0, int)),
            "random": jnp.stack(draws).mean(),
            "uncertainty": accuracy(choose(lambda chosen: statistics(chosen)["entropy"])),
            "coverage": accuracy(choose(lambda chosen: statistics(chosen)["distance"])),
            "learned": accuracy(choose(learned)),
        }

    run = lambda one, key: jax.jit(lambda keys: jax.lax.map(one, keys))(
        jax.random.split(key, tests)
    )
    known, gain = jax.tree.map(jnp.ravel, run(gains, jax.random.key(1)))
    predictor = diagnostics.fit_predictor(known, gain)
    return run(chosen, jax.random.key(2))


def main(options):
    steps, tests = (2, 4) if options.tiny else (options.steps, options.tests)
    report = harness.header(seed=0, steps=steps, tests=tests, rows={}, digests={})
    for data in options.data:
        setting = DATA[data](0)
        report["digests"][data] = setting.digest
        for head in options.heads:
            found = measure(setting, HEADS[head], steps, tests)
            report["rows"].setdefault(data, {})[head] = {
                name: {"accuracy": cell(values), "minus random": cell(values - found["random"])}
                for name, values in found.items()
            }
            print(data, head, report["rows"][data][head], flush=True)
            harness.save(options.out, "labels", report)


if __name__ == "__main__":
    main(parser.parse_args())
