"""The tables of published figures and ours, from the protocol cards and their result files."""

import importlib
import json
import math
import statistics
import sys

import numpy as np
from tables import ROOT, table

import metajax as mj

CARDS = ROOT / "benchmarks" / "reproduce"
RESULTS = ROOT / "benchmarks" / "results" / "reproduce"
sys.path.append(str(CARDS))

import cards  # noqa: E402

POINTS = 0.5
"""Per cent of accuracy that ours may be off where the paper states no interval."""


def papers():
    """Every column that is published, with ours and the verdict."""
    lines = []
    for card, name, row, runs in results():
        for title, column in row.columns.items():
            if column.published is None:
                continue
            ours, mean = measured(row, title, runs)
            lines.append(
                [
                    card.PAPER,
                    f"`{card.__name__}.py`, {name}",
                    title,
                    published(column),
                    ours,
                    iterations(runs),
                    f"{sum(run['hours'] for run in runs):.2g}",
                    verdict(row, column, mean, runs[0]["fraction"]),
                ]
            )
    header = ["paper", "card, row", "column", "published", "ours", "iterations", "hours", "verdict"]
    return table(header, lines)


def after_inner_steps():
    """The squared errors of sinusoids after several numbers of inner steps."""
    lines = []
    titles = {}
    for card, name, row, runs in results():
        if runs[0]["data"] == "sinusoids" and runs[0]["fraction"] == 1:
            cells = {title: measured(row, title, runs)[0] for title in row.columns}
            titles |= dict.fromkeys(cells)
            lines.append((f"`{card.__name__}.py`, {name}", cells))
    rows = [[label, *(cells.get(title, "") for title in titles)] for label, cells in lines]
    return table(["squared error", *titles], rows)


def fixed_tasks():
    """The files of test tasks, with the columns that were measured on each."""
    users = {}
    for card, name, row, runs in results():
        for title in row.columns:
            found = runs[0]["columns"][title]
            key = (found["file"], found["fingerprint"])
            users.setdefault(key, {})[f"{card.__name__}.py, {name}"] = None
    lines = [[f"`{file}`", f"`{digest}`", "; ".join(of)] for (file, digest), of in users.items()]
    return table(["file", "fingerprint", "tested on it"], lines)


def results():
    """(card, name of a row, Row, its runs with all seeds) of every row that was run."""
    fingerprints = {}
    for path in sorted(RESULTS.glob("*.json")):
        card = importlib.import_module(path.stem)
        together = {}
        for key, run in json.loads(path.read_text())["rows"].items():
            check_protocol(path, key, run, card)
            for column in run["columns"].values():
                first = fingerprints.setdefault(column["file"], column["fingerprint"])
                if column["fingerprint"] != first:
                    raise SystemExit(
                        f"{key!r} in {path} was tested on another {column['file']} than other rows."
                    )
            together.setdefault((run["row"], run["fraction"]), []).append(run)
        for name, row in card.ROWS.items():
            for (of_row, _), runs in together.items():
                if of_row == name:
                    yield card, name, row, runs


def check_protocol(path, key, run, card):
    """Checks that a result was measured with the protocol that its card states now.

    Raises:
        SystemExit: it was not.
    """
    if run["row"] not in card.ROWS:
        raise SystemExit(f"{path} has {key!r}, which is not a row of its card; remove it.")
    row = card.ROWS[run["row"]]
    now = {"protocol": row.protocol}
    then = {"protocol": run["protocol"]}
    for title, column in row.columns.items():
        now[title] = {"changes": column.changes, "tests": column.tests}
        found = run["columns"].get(title, {})
        then[title] = {name: found.get(name) for name in now[title]}
    if changed := cards.differences(then, now):
        raise SystemExit(
            f"{key!r} in {path} was measured with another protocol: {changed}. Run the card again, "
            "or remove the row."
        )


def measured(row, title, runs):
    """(text, mean over seeds) of one column. The mean is ∞ where a test task diverges."""
    found = [run["columns"][title][row.metric] for run in runs]
    seeds = f" ({len(runs)} seeds)" if len(runs) > 1 else ""
    if None in found:
        of_seeds = f" in {found.count(None)} of {len(runs)} seeds" if seeds else ""
        return f"diverges{of_seeds}", math.inf
    mean = statistics.fmean(value for value, _ in found)
    half = found[0][1]
    if len(found) > 1:
        half = float(mj.summarize(np.array([value for value, _ in found])).interval)
    mean_text, half_text = (
        f"{value:.2f}" if value < 1000 else f"{value:.0e}" for value in (mean, half)
    )
    return f"{mean_text} ± {half_text}{seeds}", mean


def published(column):
    """The figure of the paper, with its interval where it has one."""
    interval = "" if column.interval is None else f" ± {column.interval:g}"
    return f"{column.published:g}{interval}" + (" (unverified)" if column.unverified else "")


def iterations(runs):
    """How long the training was, and which share of the protocol's that is."""
    share = runs[0]["fraction"]
    text = f"{runs[0]['steps']:,}"
    return text if share == 1 else f"{text} ({100 * share:g} %)"


def half_a_digit(value):
    """Half of the last digit that is printed: 0.005 of 0.67."""
    return 0.5 * 10.0 ** -len(str(value).partition(".")[2])


def verdict(row, column, ours, fraction):
    """Whether ours is within the published interval, and if not, why."""
    if fraction < 1:
        return "fraction"
    is_error = row.metric == "loss"
    allowed = column.interval
    if allowed is None:
        allowed = half_a_digit(column.published) if is_error else POINTS
    gap = column.published - ours if is_error else ours - column.published
    if abs(gap) <= allowed + 1e-9:
        return "within"
    where = "outside, better" if gap > 0 else "outside"
    return f"{where}: {column.reason}" if column.reason else where


MADE = (papers, after_inner_steps, fixed_tasks)
