"""The tables of long trainings: attributions, replays, attention and noise of gradients."""

import numpy as np
from tables import cell, read, table

from metajax import summarize


def scores():
    """The linear datamodelling score of each method on each problem."""
    found = read("attribution")["lds"]
    problems = list(found["found"])
    rows = []
    for method in found["found"][problems[0]]:
        rows.append([method, *(cell(found["found"][one][method], 2) for one in problems)])
    header = found["header"]
    about = (
        f"{header['steps']} steps, {header['trainings']} trainings that leave out 1 %; 95 % "
        "intervals over 50 queries, which share the trainings. Random scores are the control. jax "
        f"{header['versions']['jax']}."
    )
    return f"{table(['linear datamodelling score', *problems], rows)}\n\n{about}"


def changed():
    """The same where one choice of the training is another."""
    rows = []
    for row in read("attribution")["changes"]["found"]:
        rest = [f"{row['smoothness']:.2f}", cell(row["lds"], 2), f"{row['accuracy']:.1f}"]
        rows.append([row["change"], *rest])
    return table(["what is changed", "metasmoothness", "score", "accuracy, %"], rows)


def wrong_labels():
    """Which per cent of the examples that rank highest has a wrong label."""
    found = read("attribution")["labels"]["found"]
    columns = {}
    for problem, rows in found.items():
        for row in rows:
            columns[f"{problem}, {100 * row['wrong']:.0f} % wrong"] = row
    methods = [name for name in next(iter(columns.values())) if name != "wrong"]
    lines = [[name, *(f"{row[name]:.0f}" for row in columns.values())] for name in methods]
    return table(["precision among as many as are wrong, %", *columns], lines)


def costs():
    """What attributions cost, in trainings, and the same job elsewhere."""
    rows = []
    for row in read("attribution_cost")["cost"]:
        rows.append(
            [
                f"`{row['strategy']}`",
                row["hidden"],
                row["steps"],
                row["queries"],
                f"{row['seconds of a training']:.2g}",
                f"{row['trainings']:.1f}",
                f"{row['trainings per query']:.1f}",
                f"{row['megabytes']:.0f}",
            ]
        )
    header = ["strategy", "hidden units", "steps", "queries", "seconds of a training"]
    header += ["cost in trainings", "of each query", "temporaries, MB"]
    return table(header, rows)


def peers():
    """The same attribution in PyTorch."""
    report = read("attribution_cost")
    rows = []
    for row in report["peers"]:
        rows.append(
            [
                row["queries"],
                row["implementation"],
                f"{row['seconds']:.2g}",
                f"{row['resident megabytes']:.0f}",
                f"{row['difference']:.0e}",
            ]
        )
    header = ["queries", "implementation", "seconds", "resident, MB", "difference"]
    return f"{table(header, rows)}\n\n{report['steps']} steps."


def attention():
    """Attention over long sequences, all scores at once and in chunks."""
    report = read("attention")
    rows = {}
    for row in report["rows"]:
        cells = rows.setdefault((row["tokens"], row["what"]), {})
        taken = f"{1000 * row['seconds']:.0f} ms" if "seconds" in row else "not run"
        cells[row["way"]] = f"{taken}, {row['temporary_bytes'] / 1e6:.0f} MB"
        # All at once comes first; where it was not run, there is nothing to compare with.
        if "difference" in row and not cells["all at once"].startswith("not run"):
            cells["difference"] = f"{row['difference']:.0e}"
    ways = ["all at once", "in chunks", "difference"]
    lines = [[*key, *(cells.get(way, "") for way in ways)] for key, cells in rows.items()]
    return table(["tokens", "what", *ways], lines)


def replays():
    """Meta-gradients of long trainings."""
    rows = []
    for row in read("replay")["rows"]:
        if "seconds" in row:
            taken, resident = f"{row['seconds']:.1f}", f"{row['resident_bytes'] / 1e6:.0f}"
        else:
            taken, resident = "not run", f"needs {row['temporary_bytes'] / 1e6:.0f}"
        way = row["way"] if row["way"].startswith("replay") else f"`{row['way']}`"
        rows.append([row["steps"], way, taken, resident])
    return table(["steps", "way", "seconds", "resident, MB"], rows)


def signals():
    """Where learned weights help, beside the signal-to-noise ratio of the outer gradient."""
    report = read("signal_to_noise")
    rows = []
    for row in report["rows"]:
        ratio = summarize(np.array([one["ratio"] for one in row["seeds"]]))
        gain = summarize(np.array([one["gain"] for one in row["seeds"]]))
        cells = [cell([float(one.mean), float(one.interval)], 2) for one in (ratio, gain)]
        rows.append([row["clean"], row["minibatch"], *cells])
    header = ["clean images", "minibatch", "signal-to-noise ratio", "gain, points"]
    about = (
        f"95 % intervals over {report['seeds']} seeds. Rank correlation of ratio and gain over "
        f"these settings: {cell(report['correlation'], 2)}."
    )
    return f"{table(header, rows)}\n\n{about}"


def attention_in_training():
    """Memory of the transformer of memory.py at sequence 1 024."""
    rows = {}
    for row in read("memory_long")["rows"]:
        cells = rows.setdefault(row["implementation"], {})
        cells[row["in chunks"]] = f"{row['temporary_bytes'] / 1e6:,.0f}"
    lines = [[name, cells[False], cells[True]] for name, cells in rows.items()]
    return table(["temporaries, MB", "all scores at once", "in chunks"], lines)


MADE = (scores, changed, wrong_labels, replays, costs, peers)
ATTENTION = (attention, attention_in_training)
SIGNALS = (signals,)
