"""The table of published figures and ours, from the protocol cards and their result files."""

import importlib
import json
import statistics
import sys

import numpy as np
from tables import ROOT, table

import metajax as mj

CARDS = ROOT / "benchmarks" / "reproduce"
RESULTS = ROOT / "benchmarks" / "results" / "reproduce"
sys.path.append(str(CARDS))

POINTS = 0.5
"""Per cent of accuracy that ours may be off where the paper states no interval."""


def papers():
    """The table of docs/papers.md."""
    lines = []
    for card, name, row, runs in results():
        for title, column in row.columns.items():
            lines.append(line(card, name, row, title, column, runs))
    header = ["paper", "card, row", "column", "published", "ours", "iterations", "hours", "verdict"]
    return table(header, lines)


def results():
    """(card, name of a row, Row, its runs with all seeds) of every row that was run."""
    for path in sorted(RESULTS.glob("*.json")):
        card = importlib.import_module(path.stem)
        by_fraction = {}
        for key, run in json.loads(path.read_text())["rows"].items():
            check_protocol(path, key, run, card)
            by_fraction.setdefault((run["row"], run["fraction"]), []).append(run)
        for (name, _), runs in by_fraction.items():
            yield card, name, card.ROWS[name], runs


def check_protocol(path, key, run, card):
    """Checks that a result was measured with the protocol that its card states now.

    Raises:
        SystemExit: it was not.
    """
    cards = importlib.import_module("cards")
    if run["row"] not in card.ROWS:
        raise SystemExit(f"{path} has {key!r}, which is not a row of its card; remove it.")
    now = cards.plain(card.ROWS[run["row"]])
    then = {name: run.get(name) for name in now}
    if changed := cards.differences(then, now):
        raise SystemExit(
            f"{key!r} in {path} was measured with another protocol: {changed}. Run the card again, "
            "or remove the row."
        )


def line(card, name, row, title, column, runs):
    """The cells of one column of a row."""
    found = [run["measured"][title][row.metric] for run in runs]
    digits = 2
    mean = statistics.fmean(value for value, _ in found)
    ours = f"{mean:.{digits}f} ± {interval(found):.{digits}f}"
    if len(runs) > 1:
        ours += f" ({len(runs)} seeds)"
    published = "" if column.published is None else f"{column.published:g}"
    if column.interval is not None:
        published += f" ± {column.interval:g}"
    first = runs[0]
    share = "" if first["fraction"] == 1 else f" ({100 * first['fraction']:g} %)"
    hours = sum(run["hours"] for run in runs)
    return [
        card.PAPER,
        f"`{card.__name__}.py`, {name}",
        title,
        published,
        ours,
        f"{first['steps']:,}{share}",
        f"{hours:.1f}",
        verdict(row, column, mean, first["fraction"]),
    ]


def interval(found):
    """Half the 95 % interval: over seeds where there are several, or over the tasks of one."""
    if len(found) == 1:
        return found[0][1]
    values = np.array([value for value, _ in found])
    return float(mj.summarize(values).interval)


def verdict(row, column, ours, fraction):
    """Whether ours is within the published interval, and if not, why."""
    if column.published is None:
        return "nothing published"
    if fraction < 1:
        return "fraction"
    is_error = row.metric == "loss"
    allowed = column.interval
    if allowed is None:
        allowed = 0.0 if is_error else POINTS
    gap = column.published - ours if is_error else ours - column.published
    if abs(gap) <= allowed:
        return "within"
    where = "outside, better" if gap > 0 else "outside"
    return f"{where}: {column.reason}" if column.reason else where


MADE = (papers,)
