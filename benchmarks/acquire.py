"""Which modality to acquire next, where a query has only some of them.

Chinese characters of five radicals, image, strokes and definition, with one shot that has all
three. A query has none, one or two of them, and gets one more, which is chosen:

- random: the control, the mean of all that are absent;
- Shapley: the one with the greatest Shapley value on validation tasks;
- gains: the one with the greatest gain on validation tasks, given what the query has
  (`acquisition_gains`);
- hindsight: the best one for the test tasks, which nobody knows.

The encoders are those of ruler.py; intervals are over splits of the radicals. Writes
benchmarks/results/acquire.json.

METAJAX_DATA=folder python benchmarks/acquire.py
METAJAX_DATA=folder python benchmarks/acquire.py --tiny --out /tmp/results    # that it runs
"""

import argparse
import pathlib

import harness
import jax
import jax.numpy as jnp
import numpy as np
from ruler import hanzi, train
from single_tasks import cell

import metajax as mj

WAYS, SHOTS, QUERIES = 5, 1, 7

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--splits", type=int, default=5)
parser.add_argument("--steps", type=int, default=600)
parser.add_argument("--tests", type=int, default=300)
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def values_of(encode, params, source, key, tests):
    """The accuracy of queries with each subset of the modalities, [2^M]."""
    known = mj.nets.identity_encoder
    adaptation = mj.modalities.modal_prototypes(known, WAYS)
    apply = mj.modalities.late_head(known)
    draw = mj.data.episodes(WAYS, SHOTS, QUERIES)

    def one(key):
        task = draw(source, key)
        encoded = lambda x: mj.Modalities(encode(params, x), x.present)
        support = task.support._replace(x=encoded(task.support.x))
        adapted = adaptation.adapt(params._replace(fast={}), support, key)
        right = lambda x: apply(adapted, x).argmax(axis=1) == task.query.y
        return mj.modalities.all_subsets(right, encoded(task.query.x)).mean(axis=1)

    run = jax.jit(lambda keys: jax.lax.map(one, keys).mean(axis=0))
    return run(jax.random.split(key, tests))


def acquired(validation, test, names):
    """{what a query has: {way of choosing: accuracy with one modality more}}."""
    found = {}
    for row, has in enumerate(np.asarray(mj.modalities.subsets(names))[:-1]):
        after = test[row] + mj.modalities.acquisition_gains(test, jnp.asarray(has))
        scores = {
            "Shapley": mj.modalities.shapley(validation),
            "gains": mj.modalities.acquisition_gains(validation, jnp.asarray(has)),
            "hindsight": after,
        }
        name = " + ".join(np.array(names)[has]) or "nothing"
        found[name] = {"before": float(test[row]), "random": float(after[~has].mean())}
        for way, score in scores.items():
            found[name][way] = float(after[jnp.where(has, -jnp.inf, score).argmax()])
    return found


def main(options):
    splits, steps, tests = options.splits, options.steps, options.tests
    if options.tiny:
        splits, steps, tests = 2, 20, 4
    found, digests = [], []
    for seed in range(splits):
        setting = hanzi(seed)
        digests.append(setting.split.digest)
        encode, params = train(setting, steps, seed)
        keys = jax.random.split(jax.random.key(seed))
        validation, test = (
            values_of(encode, params, part, key, tests)
            for part, key in zip(setting.parts[1:], keys, strict=True)
        )
        found.append(acquired(validation, test, sorted(setting.encoders)))
        print(seed, found[-1], flush=True)
    rows = {}
    for has, ways in found[0].items():
        of = lambda name, has=has: np.array([one[has][name] for one in found])
        rows[has] = {
            name: {"accuracy": cell(of(name)), "minus random": cell(of(name) - of("random"))}
            for name in ways
        }
    report = harness.header(
        seed=0, splits=splits, steps=steps, tests=tests, digests=digests, rows=rows
    )
    harness.save(options.out, "acquire", report)


if __name__ == "__main__":
    main(parser.parse_args())
