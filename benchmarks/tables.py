"""Reads result files, and writes tables from them."""

import json
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
OVER_TASKS = "95 % intervals over test tasks, which do not cover another training"


def read(name):
    """The result file of this name."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def table(header, rows):
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def cell(value, digits=1):
    """A mean with its interval, of [mean, half the interval, ...]."""
    mean, half = value[:2]
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def difference(value, digits=1):
    """A difference with its sign and interval, of [mean, half the interval, ...]."""
    mean, half = value[:2]
    return f"{mean:+.{digits}f} ± {half:.{digits}f}"
