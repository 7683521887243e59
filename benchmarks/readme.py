"""Writes the tables of the README from the files in benchmarks/results/; with --check it only compares.

python benchmarks/readme.py [--check]
"""

import json
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"


def read(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def quickstart():
    report = read("quickstart")
    shots = [name for name in report["rows"][0] if name.endswith("shot")]
    header = ["5-way, %", *(f"{name}{extra}" for name in shots for extra in ("", ", against fine-tuned"))]
    rows = []
    for row in report["rows"]:
        cells = [row["method"]]
        for name in shots:
            mean, interval, difference, paired = row[name]
            cells += [f"{mean:.1f} ± {interval:.1f}", f"{difference:+.1f} ± {paired:.1f}"]
        rows.append(cells)
    chosen = "; ".join(
        f"{name}: {s[0]} steps on {s[1]} layers from {s[2]}, rate {s[3]:.0e}"
        for name, s in report["fine_tuning"].items()
    )
    about = (
        f"{report['test_tasks']} tasks with 7 queries a class, 95 % intervals, the second column paired by task; "
        f"transductive batch statistics. {report['training_seconds']:.0f} s of training for each net on 2 CPU cores, "
        f"{report['seconds']:.0f} s for the whole script, jax {report['jax']}. Fine-tuning, chosen from 12 settings on "
        f"validation scripts: {chosen}."
    )
    return f"{table(header, rows)}\n\n{about}"


def omniglot():
    report = read("omniglot")
    names = {"maml": "MAML", "protonets": "ProtoNets"}
    rows = [
        [names[row["method"]], f"{row['accuracy']:.2f} ± {row['interval']:.2f}", row["steps"], f"{row['seconds']:.0f}"]
        for row in report["rows"]
    ]
    return table(["Omniglot, 5-way 1-shot", "accuracy, %", "outer steps", "seconds in all"], rows)


def sinusoid():
    report = read("sinusoid")

    def cell(seeds):
        return f"{sum(seeds) / len(seeds):.2f} ({min(seeds):.2f} to {max(seeds):.2f})" if seeds else "diverges"

    steps = sorted({row["inner_steps"] for row in report["rows"]})
    rows = []
    for method in dict.fromkeys(row["method"] for row in report["rows"]):
        mine = {row["inner_steps"]: row for row in report["rows"] if row["method"] == method}
        rows.append([method, *(cell(mine[n]["seeds"]) for n in steps)])
    header = ["5 shots, squared error", *(f"{n} steps" for n in steps)]
    return table(header, rows)


def conv():
    report = read("conv")
    rows = [
        [
            row["implementation"],
            f"{row['seconds']:.2f}",
            f"{row['speedup']:.1f}x",
            f"{row['temporary_megabytes']:.0f}",
            f"{row['trace_seconds']:.1f} + {row['compile_seconds']:.1f}",
            f"{row['gradient_error']:.0e}",
        ]
        for row in report["rows"]
    ]
    header = ["convolution", "seconds a step", "speed", "temporaries, MB", "tracing + compiling, s", "gradient error"]
    return f"{table(header, rows)}\n\n{report['workload']}; {report['threads']} CPU cores, jax {report['jax']}."


def bilevel():
    report = read("bilevel")
    header = ["digits, accuracy in %", "of the test images"]
    rows = [
        [row["method"], f"{row['accuracy']:.1f} ± {row['interval']:.1f}"]
        for part in ("reweighting", "distillation")
        for row in sorted(report[part], key=lambda row: row["accuracy"])
    ]
    return f"{table(header, rows)}\n\nMeans over {report['seeds']} seeds with 95 % intervals, jax {report['jax']}."


def learned_optimizer():
    report = read("learned_optimizer")
    rows: dict[str, list[str]] = {}
    columns = dict.fromkeys((row["tasks"], row["measure"]) for row in report["rows"])
    for row in report["rows"]:
        cell = f"{row['loss']:.3f} ± {row['loss_interval']:.3f}"
        if row["method"] != "learned":
            cell += f" ({row['learned_minus_this']:+.3f} ± {row['learned_minus_this_interval']:.3f})"
        rows.setdefault(row["method"], [row["method"]]).append(cell)
    header = ["query loss (learned minus this, paired)", *(f"{tasks}, {measure}" for tasks, measure in columns)]
    text = table(header, rows.values())
    took = f"{report['training_seconds']:.0f} s of training, {report['seconds']:.0f} s in all"
    return (
        f"{text}\n\n{report['tasks']} tasks each, 95 % intervals; {took} on 2 CPU cores, jax {report['jax']}, one seed."
    )


def costs(part, columns):
    """Rows of one part of differentiate.json, each against the first."""
    report = read("differentiate")
    rows, first = [], report[part][0]
    for row in report[part]:
        cells = {
            "memory, MB": f"{row['temporary_bytes'] / 1e6:.3g}",
            "less memory": f"{first['temporary_bytes'] / row['temporary_bytes']:.1f}x",
            "GFLOP": f"{row['flops'] / 1e9:.3g}",
            "seconds": f"{row['run_seconds']:.2g}",
            "faster": f"{first['run_seconds'] / row['run_seconds']:.1f}x",
            "compilation, s": f"{row['compile_seconds']:.1f}",
            "difference": f"{row['bias']:.0e}" if row["bias"] < 1e-3 else f"{row['bias']:.3f}",
        }
        rows.append([row["implementation"], *(cells[name] for name in columns)])
    return table(["strategy", *columns], rows), report


def transformer():
    columns = ("memory, MB", "less memory", "seconds", "faster", "compilation, s", "difference")
    text, report = costs("transformer", columns)
    return f"{text}\n\n{report['threads']} CPU cores, jax {report['jax']}, commit {report['commit']}, float32."


def digits():
    return costs("digits", ("memory, MB", "GFLOP", "seconds", "difference"))[0]


def main():
    text = README.read_text()
    for make in (quickstart, omniglot, sinusoid, transformer, digits, bilevel, learned_optimizer, conv):
        pattern = rf"(<!-- {make.__name__} -->\n).*?(\n<!-- end -->)"
        assert re.search(pattern, text, flags=re.DOTALL), f"The README has no place for {make.__name__}."
        text = re.sub(pattern, lambda match: match[1] + make() + match[2], text, flags=re.DOTALL)  # noqa: B023
    if "--check" not in sys.argv:
        README.write_text(text)
    elif text != README.read_text():
        sys.exit("The tables of the README are not those of benchmarks/results; run python benchmarks/readme.py.")


if __name__ == "__main__":
    main()
