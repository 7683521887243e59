"""Runs the first lines of the README, and keeps what they print.

python benchmarks/first_lines.py
"""

import argparse
import contextlib
import io
import pathlib
import re
import time

import harness
from tables import ROOT

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


def code():
    """The first block of code of the README."""
    return re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]


def main(options):
    text = code()
    names = {"__name__": "__main__"}
    printed = io.StringIO()
    start = time.perf_counter()
    with contextlib.redirect_stdout(printed):
        exec(compile(text, "README.md", "exec"), names)
    report = harness.header(
        seed=0,
        digest=names["split"].digest,
        code=text,
        printed=printed.getvalue(),
        seconds=time.perf_counter() - start,
    )
    harness.save(options.out, "first_lines", report)


if __name__ == "__main__":
    main(parser.parse_args())
