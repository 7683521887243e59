"""Text and pen strokes read far beyond the trained length: what learning while reading adds.

A sequence is all sentences of one intent, character by character (CLINC150), or all drawings of
one character, point by point (Omniglot); intents and characters of the test are new. Each net
predicts the next token. Sentences and drawings of one class resemble each other, so that a net that
remembers what it has read predicts better the further it reads. The rows:

- attention to a window of 16 tokens, in two layers, and nothing else: the control;
- full attention;
- the window and `nets.FastWeights`: descent by the exact derivative and by first order, delta rule;
- the window, and the hidden layer of the last block learns in each chunk of 32 tokens from the loss
  of the next token (`online`): meta-trained by the exact derivative and by first order, from the
  start, or after ordinary training for half of the time;
- naive test-time training: the first row, whose hidden layer, or all weights, learn in the same way
  during the test and were not meta-trained.

All nets have the same number of parameters up to 4 % and may train for the same processor time.
Small data are soon learned by heart: each net is trained for an eighth, a third and all of its
time, and what is best on validation sequences, of four checks of each training, is tested. Step
sizes of the test, and those that meta-training starts at, are chosen on validation sequences, too.
Reports the loss by position up to eight times the trained length, and differences from the control
with 95 % intervals over sequences.
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


PLAIN: dict[str, Callable] = {
    CONTROL: plain,
    "full attention": functools.partial(plain, window=None),
    "window + fast weights, exact": functools.partial(plain, rule=nets.descent()),
    "window + fast weights, first order": functools.partial(plain, rule=nets.descent(exact=False)),
    "window + fast weights, delta rule": functools.partial(plain, rule=nets.delta_rule()),
}
"""{row: number of tokens -> (params, losses)}."""
EXACT, FIRST_ORDER = "hidden layer learns, exact", "hidden layer learns, first order"
LEARNING = {EXACT: mj.mixed_mode(), FIRST_ORDER: mj.first_order()}
"""{row: strategy}."""
AFTER = "{}, after ordinary training"
FIRST_RATES = (0.3, 1.0, 3.0)
NAIVE = {"naive, hidden layer": is_last_hidden, "naive, all weights": lambda path: True}
"""{row: which weights learn during the test}."""
NAIVE_RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


def chosen(make, streams, config, rates=(None,)):
    """(losses, params, facts) of the best training on validation sequences.

    Step sizes that are learned start at the one that is best in a third of the time.
    """
    tries = []

    def attempt(share, rate):
        start, losses = make(streams.tokens) if rate is None else make(streams.tokens, rate=rate)
        seconds = share * config.seconds
        params, facts = trained(losses, start, streams, config._replace(seconds=seconds))
        facts |= {"seconds": seconds} | ({} if rate is None else {"first rate": rate})
        tries.append((losses, params, facts))

    best = lambda: min(tries, key=lambda one: one[2]["validation"])
    is_tiny = config.seconds == 0
    for rate in rates[:1] if is_tiny else rates:
        attempt(1 / 3, rate)
    rate = best()[2].get("first rate")
    for share in () if is_tiny else (1 / 8, 1):
        attempt(share, rate)
    losses, params, facts = best()
    shown = ("seconds", "first rate", "validation", "best step", "steps", "skipped")
    facts["tries"] = [{name: one[name] for name in shown if name in one} for *_, one in tries]
    return losses, params, facts


def naive(control, is_fast, streams):
    """(losses of the test, facts) of a net that learns during the test only."""
    apply, _ = nets.functional(Reader(streams.tokens))
    params = nets.split_params(control, is_fast)

    def losses(params, sequence, key):
        return learning(apply, optax.sgd(params.rule))[1](params, sequence, key)

    at = lambda rate, part: np.asarray(
        measured(losses, params._replace(rule=jnp.array(rate)), unseen(streams, part))
    )
    tries = {rate: float(at(rate, "validation").mean()) for rate in NAIVE_RATES}
    tries = {rate: loss for rate, loss in tries.items() if np.isfinite(loss)}
    rate = min(tries, key=tries.get)
    return at(rate, "test"), {"rate": rate, "validation": tries[rate], "tries": tries}


def all_rows(streams, config):
    """{row: (losses of the test, facts)}."""
    test = unseen(streams, "test")
    found = {}
    learning_makes = {
        name: functools.partial(meta_trained, differentiate=strategy)
        for name, strategy in LEARNING.items()
    }
    # What a step takes is measured before anything else, so that nothing beside it is counted.
    milliseconds = {}
    for name, make in {**PLAIN, **learning_makes}.items():
        milliseconds[name] = 1.0
        if config.seconds:
            start, losses = make(streams.tokens)
            _, facts = trained(losses, start, streams, config._replace(seconds=0.0))
            milliseconds[name] = facts["milliseconds of a step"]

    def timed(name, share=1.0):
        seconds = share * config.seconds
        return config._replace(seconds=seconds, milliseconds=milliseconds[name])

    def add(name, losses, facts):
        found[name] = losses, facts
        print(name, losses.mean(), facts, flush=True)

    def train(name, *recipe):
        losses, params, facts = chosen(*recipe)
        add(name, np.asarray(measured(losses, params, test)), facts)
        return params

    for name, make in PLAIN.items():
        params = train(name, make, streams, timed(name))
        if name == CONTROL:
            control = params
    _, begun, begun_facts = chosen(plain, streams, timed(CONTROL, 0.5))
    for name, make in learning_makes.items():
        train(name, make, streams, timed(name), FIRST_RATES)
        make = functools.partial(make, params=begun)
        train(AFTER.format(name), make, streams, timed(name, 0.5), FIRST_RATES)
        found[AFTER.format(name)][1]["ordinary training"] = begun_facts
    for name, is_fast in NAIVE.items():
        add(name, *naive(control, is_fast, streams))
    return found


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
    of_validation = lambda name: found[name][1]["validation"]
    naive_row = min(NAIVE, key=of_validation)
    learned = {name: min((name, AFTER.format(name)), key=of_validation) for name in LEARNING}
    pairs = [(name, naive_row) for name in (*LEARNING, *map(AFTER.format, LEARNING))]
    pairs += [
        (learned[EXACT], learned[FIRST_ORDER]),
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
    report.update(harness.header(seed=0))
    config = Config(seconds=0.0 if options.tiny else options.seconds)
    for data in options.data:
        streams = DATA[data]()
        if options.tiny:
            parts = {part: sequences[:3] for part, sequences in streams.parts.items()}
            streams = streams._replace(length=2 * CHUNK, parts=parts)
        found = all_rows(streams, config)
        report["found"][data] = {
            "length": streams.length,
            "sequences": len(streams.parts["test"]),
            "seconds": options.seconds,
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
            for name in [name for name in losses if name != CONTROL]:
                gap = losses[name] - losses[CONTROL]
                lines[name] = middle, [gap[group].mean() for group in groups], None
            mj.plots.curves(
                axes,
                lines,
                xlabel="position, in trained lengths",
                ylabel=f"loss minus that of the {CONTROL}, nats a token",
                title=data,
            )
            axes.axhline(0, color="0.6", zorder=0)
            axes.get_legend().remove()
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
        figure.savefig(path)


if __name__ == "__main__":
    main(parser.parse_args())
