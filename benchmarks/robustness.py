"""Tables of what wrong arguments, kills and damaged files do; see fuzz.py, kills.py, damage.py."""

from tables import read, table


def wrong_arguments():
    reports = [read("fuzz-before"), read("fuzz")]
    rows = []
    for outcome, meaning in {
        "refused": "an error of metajax",
        "right": "it runs",
        "later": "it runs, and a later line that is not metajax's fails",
        "nan": "it runs, and the result is NaN",
        "inside": "an error from inside another library",
        "hang": "it takes longer than a minute",
    }.items():
        cells = []
        for report in reports:
            share = 100 * report["outcomes"][outcome] / report["calls"]
            cells.append(f"{report['outcomes'][outcome]} ({share:.1f} %)")
        rows.append([meaning, *cells])
    header = ["a call with one wrong argument", *(f"commit {one['commit']}" for one in reports)]
    about = (
        f"{reports[0]['calls']} and {reports[1]['calls']} calls: the examples of "
        f"{reports[1]['examples']} docstrings and more, each with one argument replaced by one of "
        f"{reports[1]['values']} values (`benchmarks/fuzz.py`)."
    )
    return f"{table(header, rows)}\n\n{about}"


def killed_runs():
    report = read("kills")
    commits = " and ".join(dict.fromkeys(row["commit"] for row in report["rows"]))
    rows = []
    for row in report["rows"]:
        kinds = ", ".join(f"{name} {number}" for name, number in sorted(row["kinds"].items()))
        rows.append([row["devices"], row["kills"], row["runs"], kinds, row["failed"]])
    header = ["devices", "kills and signals", "runs", "where", "failed"]
    about = (
        "A run is killed until it ends. It fails if its weights are not those of a run that was "
        "left alone, bit for bit, or if a record is missing, double or no JSON "
        f"(`benchmarks/kills.py`, commit {commits})."
    )
    return f"{table(header, rows)}\n\n{about}"


def damaged_files():
    report = read("damage")
    outcomes = ("right", "refused", "unnoticed", "other", "silent", "hang")
    rows = []
    for row in report["rows"]:
        rows.append([row["target"], row["number"], *(row[name] for name in outcomes)])
    totals = [sum(row[column] for row in rows) for column in range(1, len(rows[0]))]
    rows.append(["together", *totals])
    header = ["what", "damages", "right", "refused by name", "cannot be noticed", "other error",
              "silently wrong", "hang"]  # fmt: skip
    about = (
        "Right: the values of the whole file, or for a checkpoint the weights of a run left alone. "
        "Cannot be noticed: the format has no checksum (text, bitmaps, photographs), or another "
        "whole file took the place of this one, or a picture is gone from its folder "
        "(`benchmarks/damage.py`)."
    )
    return f"{table(header, rows)}\n\n{about}"


MADE = [wrong_arguments, killed_runs, damaged_files]
