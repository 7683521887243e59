"""Text and pen strokes read far beyond the trained length: what learning while reading adds.

A sequence is all sentences of one intent, character by character (CLINC150), or all drawings of
one character, point by point (Omniglot); intents and characters of the test are new. Each net
predicts the next token. Sentences and drawings of one class resemble each other, so that a net that
remembers what it has read predicts better the further it reads. The rows:

- attention to a window of 16 tokens, in two layers, and nothing else: the control;
- full attention;
- the window and `nets.FastWeights`: descent by the exact derivative and by first order, delta rule;
- the window, and the hidden layer of the last block learns in each chunk of 32 tokens from the loss
  of the next token (`online`): meta-trained by the exact derivative and by first order;
- naive test-time training: the first row, whose hidden layer, or all weights, learn in the same way
  during the test and were not meta-trained. The step size is chosen on validation sequences.

All nets have the same number of parameters up to 4 % and train for the same processor time; the
best of twelve checks on validation sequences is tested. Reports the loss by position up to eight
times the trained length, and differences from the control with 95 % intervals over sequences.
Writes benchmarks/results/reading.json, and .png.

METAJAX_DATA=folder python benchmarks/reading.py
METAJAX_DATA=folder python benchmarks/reading.py --data strokes --seconds 60 --out /tmp/results
METAJAX_DATA=folder python benchmarks/reading.py --tiny --out /tmp/results    # that it runs
"""

import argparse
import functools
import itertools
import json
import pathlib
import sys
from collections.abc import Callable

import harness
import jax.numpy as jnp
import numpy as np
import optax

import metajax as mj
from metajax import nets

sys.path.insert(0, str(harness.ROOT / "examples" / "research"))
from longer_sequences import (
    CHUNK,
    CONTROL,
    DATA,
    TIMES,
    Config,
    Reader,
    is_last_hidden,
    learning,
    measured,
    meta_trained,
    plain,
    trained,
    unseen,
)

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--data", nargs="+", default=["text", "strokes"], choices=["text", "strokes"])
parser.add_argument("--seconds", type=float, default=120, help="of processor time for each net")
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


ROWS: dict[str, Callable] = {
    CONTROL: plain,
    "full attention": functools.partial(plain, window=None),
    "window + fast weights, exact": functools.partial(plain, rule=nets.descent()),
    "window + fast weights, first order": functools.partial(plain, rule=nets.descent(exact=False)),
    "window + fast weights, delta rule": functools.partial(plain, rule=nets.delta_rule()),
    "hidden layer learns, exact": functools.partial(meta_trained, differentiate=mj.mixed_mode()),
    "hidden layer learns, first order": functools.partial(
        meta_trained, differentiate=mj.first_order()
    ),
}
"""{row: number of tokens -> (params, losses)}."""
NAIVE = {"naive, hidden layer": is_last_hidden, "naive, all weights": lambda path: True}
"""{row: which weights learn during the test}."""
NAIVE_RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


def naive(control, is_fast, streams):
    """(losses of the test, facts) of a net that learns during the test only."""
    apply, _ = nets.functional(Reader(streams.tokens))
    params = nets.split_params(control, is_fast)

    def losses(params, sequence, key):
        return learning(apply, optax.sgd(params.rule))[1](params, sequence, key)

    at = lambda rate, part: np.asarray(
        measured(losses, params._replace(rule=jnp.array(rate)), unseen(streams, part))
    )
    tries = {rate: at(rate, "validation").mean() for rate in NAIVE_RATES}
    rate = min(NAIVE_RATES, key=lambda rate: np.nan_to_num(tries[rate], nan=np.inf))
    return at(rate, "test"), {"rate": rate, "tries": {key: float(tries[key]) for key in tries}}


def bins(chunks):
    """[(name, first chunk, end)] of ranges of positions, in trained lengths."""
    of_length = chunks // TIMES
    edges = [0, 1, 2, 4, 8]
    return [
        (f"{low} to {high}", low * of_length, high * of_length)
        for low, high in itertools.pairwise(edges)
    ]


def compare(found):
    """The rows of the table: losses by position, and differences from the control."""
    rows = []
    for name, (losses, facts) in found.items():
        row = {"row": name, **facts, "loss": {}, "difference": {}}
        for label, first, end in bins(losses.shape[1]):
            here = losses[:, first:end].mean(axis=1)
            there = found[CONTROL][0][:, first:end].mean(axis=1)
            row["loss"][label] = cell_of(here)
            row["difference"][label] = cell_of(here - there)
        row["losses"] = np.round(losses.mean(axis=0), 4).tolist()
        rows.append(row)
    return rows


def gains(found):
    """What meta-training adds: paired differences at positions beyond the trained length."""
    first = found[CONTROL][0].shape[1] // TIMES
    beyond = {name: losses[:, first:].mean(axis=1) for name, (losses, _) in found.items()}
    naive_row = min(NAIVE, key=lambda name: beyond[name].mean())
    pairs = [
        ("hidden layer learns, exact", naive_row),
        ("hidden layer learns, first order", naive_row),
        ("hidden layer learns, exact", "hidden layer learns, first order"),
        ("window + fast weights, exact", "window + fast weights, first order"),
    ]
    return [
        {"row": one, "minus": other, "loss": cell_of(beyond[one] - beyond[other])}
        for one, other in pairs
    ]


def cell_of(values):
    summary = mj.summarize(values)
    return [float(summary.mean), float(summary.interval)]


def main(options):
    path = options.out / "reading.json"
    report = json.loads(path.read_text()) if path.exists() else {"found": {}, "digests": {}}
    report.update(harness.header(seed=0, seconds=options.seconds))
    config = Config(seconds=0.0 if options.tiny else options.seconds)
    for data in options.data:
        streams = DATA[data]()
        if options.tiny:
            parts = {part: sequences[:3] for part, sequences in streams.parts.items()}
            streams = streams._replace(length=2 * CHUNK, parts=parts)
        test = unseen(streams, "test")
        found = {}
        for name, make in ROWS.items():
            start, losses = make(streams.tokens)
            params, facts = trained(losses, start, streams, config)
            found[name] = np.asarray(measured(losses, params, test)), facts
            if name == CONTROL:
                control = params
            print(data, name, found[name][0].mean(), facts, flush=True)
        for name, is_fast in NAIVE.items():
            found[name] = naive(control, is_fast, streams)
            print(data, name, found[name][0].mean(), found[name][1], flush=True)
        report["found"][data] = {
            "length": streams.length,
            "sequences": len(test),
            "rows": compare(found),
            "gains": gains(found),
        }
        report["digests"][data] = streams.digest
        harness.save(options.out, "reading", report)
    draw(report, options.out / "reading.png")


def draw(report, path):
    """The difference from the control against the position, a panel for each kind of data."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(dict(mj.plots.STYLE)):
        figure = Figure(figsize=(3 + 4.5 * len(report["found"]), 4.2))
        panels = np.atleast_1d(figure.subplots(1, len(report["found"])))
        for axes, (data, found) in zip(panels, report["found"].items(), strict=True):
            losses = {row["row"]: np.array(row["losses"]) for row in found["rows"]}
            groups = np.array_split(np.arange(len(losses[CONTROL])), 2 * TIMES)
            middle = [CHUNK * (group.mean() + 0.5) / found["length"] for group in groups]
            lines = {}
            for name, each in losses.items():
                gap = each - losses[CONTROL]
                lines[name] = middle, [gap[group].mean() for group in groups], None
            mj.plots.curves(
                axes,
                lines,
                xlabel="position, in trained lengths",
                ylabel=f"loss minus that of the {CONTROL}, nats a token",
                title=data,
            )
            axes.get_legend().remove()
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
        figure.savefig(path)


if __name__ == "__main__":
    main(parser.parse_args())
