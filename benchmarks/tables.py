"""Reading result files, and writing tables of them."""

import json
import pathlib

ROOT = pathlib.Path(__file__).parents[1]


def read(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
