"""Writes the tables of the README and of docs/ from benchmarks/results/; with --check it only compares.

python benchmarks/readme.py [--check]
"""

import re
import sys

import applications
import performance
from tables import ROOT, read, table


def quickstart():
    report = read("quickstart")
    shots = [name for name in report["rows"][0] if name.endswith("shot")]
    header = [
        "5-way, %",
        *(f"{name}{extra}" for name in shots for extra in ("", ", against fine-tuned")),
    ]
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
        [
            names[row["method"]],
            f"{row['accuracy']:.2f} ± {row['interval']:.2f}",
            row["steps"],
            f"{row['seconds']:.0f}",
        ]
        for row in report["rows"]
    ]
    return table(["Omniglot, 5-way 1-shot", "accuracy, %", "outer steps", "seconds in all"], rows)


def sinusoid():
    report = read("sinusoid")

    def cell(seeds):
        return (
            f"{sum(seeds) / len(seeds):.2f} ({min(seeds):.2f} to {max(seeds):.2f})"
            if seeds
            else "diverges"
        )

    steps = sorted({row["inner_steps"] for row in report["rows"]})
    rows = []
    for method in dict.fromkeys(row["method"] for row in report["rows"]):
        mine = {row["inner_steps"]: row for row in report["rows"] if row["method"] == method}
        rows.append([method, *(cell(mine[n]["seeds"]) for n in steps)])
    header = ["5 shots, squared error", *(f"{n} steps" for n in steps)]
    return table(header, rows)


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
            cell += (
                f" ({row['learned_minus_this']:+.3f} ± {row['learned_minus_this_interval']:.3f})"
            )
        rows.setdefault(row["method"], [row["method"]]).append(cell)
    header = [
        "query loss (learned minus this, paired)",
        *(f"{tasks}, {measure}" for tasks, measure in columns),
    ]
    text = table(header, rows.values())
    took = f"{report['training_seconds']:.0f} s of training, {report['seconds']:.0f} s in all"
    return f"{text}\n\n{report['tasks']} tasks each, 95 % intervals; {took} on 2 CPU cores, jax {report['jax']}, one seed."


RULER = {
    "strokes": "Omniglot image + stroke",
    "digits": "written + spoken digits",
    "hanzi": "Chinese characters, image + stroke + definition",
    "groceries": "groceries, grey + colour",
}


def ruler():
    report = read("ruler")
    columns = ("best single", "equal", "static", "learned", "oracle")
    header = ["5-way, shots", "single, by hindsight", "single, chosen", *columns[1:]]
    header += [
        "learned - hindsight",
        "learned - chosen",
        "learned - static",
        "gap closed",
        "worth, shots",
    ]
    rows = []
    for row in report["rows"]:
        singles = [row["accuracy"][name] for name in row["learned weights"]]
        cells = [f"{RULER[row['data']]}, {row['shots']}", "{:.1f} ± {:.1f}".format(*max(singles))]
        cells += ["{:.1f} ± {:.1f}".format(*row["accuracy"][name]) for name in columns]
        other = ("hindsight", "best single", "static")
        cells += ["{:+.1f} ± {:.1f}".format(*row[f"learned minus {name}"]) for name in other]
        worth = row["shots equivalent"]
        cells += [
            f"{row['gap closed']:.2f}",
            f"> {row['most shots']}" if worth is None else f"{worth:.1f}",
        ]
        rows.append(cells)
    splits = ", ".join(
        f"{RULER[name].split(',')[0]} {number}" for name, number in report["splits"].items()
    )
    about = (
        "Accuracy in % with 95 % intervals, differences paired; the single modality is chosen on validation tasks, or "
        "by hindsight on the test. Splits of the classes, each with nets of its own: "
        f"{splits}; {report['tasks']} tasks each. Intervals are over splits, for Omniglot (one split, several nets) "
        "over tasks; those over splits are by Student's t, and the test classes of different splits overlap. Nets "
        "normalise by batch statistics, of the shots that count and of the queries. Digits have no third part: their "
        "weights are chosen and learned on the five digits of training, on other examples. The vocabulary of the "
        f"definitions is of all characters. {report['seconds'] / 60:.0f} minutes in all on {report['threads']} shared "
        f"CPU cores, jax {report['jax']}."
    )
    return f"{table(header, rows)}\n\n{about}"


def modalities():
    report = read("modalities")
    cell = lambda value: "{:.1f} ± {:.1f}".format(*value)
    shots = list(report["ruler"])
    rows = [
        [name, *(cell(report["ruler"][k][name]) for k in shots)]
        for name in report["ruler"][shots[0]]
    ]
    first = table(["letters, 5-way, %", *shots], rows)
    difference = "{:+.1f} ± {:.1f}".format
    rows = [
        [name, cell(value), difference(*paired)] for name, (value, paired) in report["name"].items()
    ]
    second = table(["letters, 5-way 1-shot, %", "accuracy", "minus picture only"], rows)
    train, validation, test = report["classes"]
    about = (
        f"{report['tasks']} tasks of {test} letters (random split; {train} to train, {validation} to choose and to "
        f"learn to weigh), 95 % intervals, one seed; {report['seconds']:.0f} s, jax {report['jax']}."
    )
    return f"{first}\n\n{second}\n\n{about}"


def subsets():
    report = read("subsets")
    header = [
        "64 subsets of 6 modalities",
        "examples",
        "width",
        "seconds",
        "times the first",
        "difference",
    ]
    rows = [
        [
            row["implementation"],
            row["examples"],
            row["width"],
            f"{row['seconds']:.3g}",
            f"{row['times_slower']:.1f}x",
            f"{row['difference']:.0e}",
        ]
        for row in report["rows"]
    ]
    return f"{table(header, rows)}\n\n{report['threads']} CPU cores, jax {report['jax']}."


def alphabets():
    report = read("alphabets")
    rows = []
    for row in report["rows"]:
        within = f"{row['accuracy']:.1f} ± {row['interval']:.1f}"
        rows.append([row["training"], within, f"{row['random']:.1f}"])
    about = (
        f"{report['steps']} steps of one task, {report['tasks']} test tasks of each of the "
        f"{len(report['rows'][0]['alphabets'])} alphabets; 95 % intervals over alphabets, one seed. Lake et al. report "
        f"13.7 % of errors for prototypical networks and 4.5 % for people on 20 such tasks of theirs. jax "
        f"{report['versions']['jax']}."
    )
    return (
        f"{table(['training tasks', 'within an alphabet, %', 'random 20-way, %'], rows)}\n\n{about}"
    )


def digits():
    rows = []
    for row in read("differentiate")["digits"]:
        bias = f"{row['bias']:.0e}" if row["bias"] < 1e-3 else f"{row['bias']:.3f}"
        numbers = (
            f"{row['temporary_bytes'] / 1e6:.3g}",
            f"{row['flops'] / 1e9:.3g}",
            f"{row['run_seconds']:.2g}",
            bias,
        )
        rows.append([row["implementation"], *numbers])
    return table(["strategy", "memory, MB", "GFLOP", "seconds", "difference"], rows)


MADE = (
    quickstart, omniglot, sinusoid, performance.transformer, digits, bilevel, learned_optimizer, performance.peers,
    alphabets, ruler, modalities, subsets, applications.overview,
)  # fmt: skip


def main():
    stale = []
    pages = {
        "README.md": MADE,
        "docs/applications.md": applications.MADE,
        "docs/performance.md": performance.MADE,
    }
    for page, made in ((ROOT / name, made) for name, made in pages.items()):
        text = page.read_text()
        for make in made:
            pattern = rf"(<!-- {make.__name__} -->\n).*?(\n<!-- end -->)"
            assert re.search(pattern, text, flags=re.DOTALL), (
                f"{page.name} has no place for {make.__name__}."
            )
            text = re.sub(
                pattern, lambda match: match[1] + make() + match[2], text, flags=re.DOTALL
            )  # noqa: B023
        if "--check" not in sys.argv:
            page.write_text(text)
        elif text != page.read_text():
            stale.append(page.name)
    if stale:
        sys.exit(
            f"Tables of {stale} are not those of benchmarks/results; run python benchmarks/readme.py."
        )


if __name__ == "__main__":
    main()
