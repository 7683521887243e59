"""Writes the tables of the README and of docs/, from benchmarks/results/ and from docstrings.

python benchmarks/readme.py
python benchmarks/readme.py --check    # only compares
"""

import argparse
import re
import sys

import applications
import catalogue
import confidence
import first_lines
import memories
import papers
import performance
import robustness
import worth
from tables import OVER_TASKS, ROOT, cell, difference, read, table

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument(
    "--check", action="store_true", help="write nothing, and fail if a table differs"
)


def letters():
    report = read("letters")
    shots = [name for name in report["rows"][0] if name.endswith("shot")]
    header = ["5-way, %"]
    for name in shots:
        header += [name, f"{name}, against fine-tuned"]
    rows = []
    for row in report["rows"]:
        cells = [row["method"]]
        for name in shots:
            cells += [cell(row[name][:2]), difference(row[name][2:])]
        rows.append(cells)
    settings = []
    for name, (steps, layers, start, rate) in report["fine_tuning"].items():
        settings.append(f"{name}: {steps} steps on {layers} layers from {start}, rate {rate:.0e}")
    about = (
        f"{report['test_tasks']} tasks with 7 queries a class, 95 % intervals, the second column "
        "paired by task; transductive batch statistics. "
        f"{report['training_seconds']:.0f} s of training for each net on 2 CPU cores, "
        f"{report['seconds']:.0f} s for the whole script, jax {report['jax']}. Fine-tuning, chosen "
        f"from 12 settings on validation scripts: {'; '.join(settings)}."
    )
    return f"{table(header, rows)}\n\n{about}"


def first_output():
    report = read("first_lines")
    if report["code"] != first_lines.code():
        sys.exit("README.md begins with other lines; run python benchmarks/first_lines.py.")
    return f"```text\n{report['printed'].strip()}\n```"


def summary():
    """What a reader of the first page wants to know of every kind of measurement."""
    letters = {row["method"]: row["1 shot"] for row in read("letters")["rows"]}
    two = read("modalities")
    one_shot = two["ruler"]["1 shot"]
    speed = {row["implementation"]: row for row in read("peers-w1")["rows"]}
    images = {row["implementation"]: row for row in read("peers-w2-32-tasks")["rows"]}
    memory = {row["implementation"]: row["temporary_bytes"] for row in read("memory")["rows"]}
    alone = memory["`unroll()`"] / memory["`mixed_mode()`"]
    both = memory["`unroll()`"] / memory["`mixed_mode()`, block remat"]
    kills = read("kills")["rows"]
    rows = [
        [
            "one example of each of 5 letters of an unseen script",
            ", ".join(f"{name} {cell(letters[name])} %" for name in reversed(letters)),
        ],
        [
            "letters, from one picture and one outline of each",
            f"picture {cell(one_shot['image'])} %, both {cell(one_shot['learned'])} %",
        ],
        [
            "a step of MAML, against the fastest of three PyTorch libraries on a CPU",
            f"{speed['metajax']['ratio']:.1f} times as fast on sinusoids, "
            f"{images['metajax']['ratio']:.1f} times on images",
        ],
        [
            "memory of a meta-gradient through 8 steps of Adam on a transformer",
            f"{alone:.1f} times less with `mixed_mode()` than with `unroll()`, and {both:.0f} "
            "times with `jax.checkpoint` around each layer too",
        ],
        [
            "runs of `fit` that were killed or interrupted, and started again",
            f"{sum(row['kills'] for row in kills)} times; "
            f"{sum(row['failed'] for row in kills)} ended with other weights or a torn log",
        ],
    ]
    return table(["what", "figure"], rows)


def omniglot():
    report = read("omniglot")
    names = {"maml": "MAML", "protonets": "ProtoNets"}
    rows = [
        [
            names[row["method"]],
            cell([row["accuracy"], row["interval"]], 2),
            row["steps"],
            f"{row['seconds']:.0f}",
        ]
        for row in report["rows"]
    ]
    header = ["Omniglot, 5-way 1-shot", "accuracy, %", "outer steps", "seconds in all"]
    return table(header, rows)


def sinusoid():
    report = read("sinusoid")
    steps = sorted({row["inner_steps"] for row in report["rows"]})
    methods = dict.fromkeys(row["method"] for row in report["rows"])
    seeds = {(row["method"], row["inner_steps"]): row["seeds"] for row in report["rows"]}
    rows = [[method, *(over_seeds(seeds[method, n]) for n in steps)] for method in methods]
    return table(["5 shots, squared error", *(f"{n} steps" for n in steps)], rows)


NAMES_OF_PROCESSES = {"exact": "the exact process", "constant": "mean and variance of y"}


def processes():
    report = read("processes")
    rows = []
    for row in report["rows"]:
        rows.append(
            [
                NAMES_OF_PROCESSES.get(row["net"], row["net"]),
                row["shots"],
                cell(row["log-likelihood"], 2),
                cell(row["squared error"], 2),
                cell(row["coverage"]),
                f"{row['parameters']:,}",
            ]
        )
    header = ["net", "examples", "log-likelihood", "squared error", "in the 90 % interval, %"]
    text = table([*header, "parameters"], rows)
    about = (
        f"{report['steps']} steps of 16 tasks; 95 % intervals over {report['tests']} test tasks, "
        f"one seed. jax {report['jax']}."
    )
    return f"{text}\n\n{about}"


def few_shot():
    report = read("few_shot")
    rows = []
    for row in sorted(report["rows"].values(), key=lambda row: -row["accuracy"][0]):
        rows.append(
            [
                f"`{row['algorithm']}`",
                cell(row["accuracy"]),
                difference(row["minus pretrained"]),
                cell(row["untrained"]),
                f"{row['steps']:,}",
                f"{row['seconds']:.0f}",
                f"{row['parameters']:,}",
            ]
        )
    header = ["Omniglot, 5-way 1-shot, %", "accuracy", "minus pretrained", "before training"]
    text = table([*header, "outer steps", "seconds", "parameters"], rows)
    of_features = report["pretrained"]
    versions = sorted({row["jax"] for row in report["rows"].values()})
    about = (
        f"Pretrained features with the nearest mean: {cell(of_features['accuracy'])} after "
        f"{of_features['steps']:,} steps in the same time. Raw pixels with the nearest mean: "
        f"{cell(report['raw pixels'])}; a constant answer: 20. {report['tests']} tasks of "
        f"characters never seen with {report['queries']} queries a class, the same for all, and "
        f"differences paired; {OVER_TASKS}; transductive batch statistics; one seed. "
        f"jax {', '.join(versions)}."
    )
    return f"{text}\n\n{about}"


def clustering():
    report = read("clustering")
    tables = []
    for name, rows in report["results"].items():
        by_features = {}
        for row in rows:
            by_features.setdefault(row["features"], {})[row["clustering"]] = row["adjusted_rand"]
        ways = list(next(iter(by_features.values())))
        lines = []
        for features, found in by_features.items():
            lines.append([features, *(cell(found[way], 2) for way in ways)])
        tables.append(table([f"{name}, features", *ways], lines))
    about = (
        f"Adjusted Rand index, whose chance is 0, over {report['tests']} tasks of 10 classes never "
        f"seen with 15 examples each; {OVER_TASKS}; one seed. Each net was trained for "
        f"{report['training_seconds']:.0f} s on 2 CPU cores. jax {report['jax']}."
    )
    return "\n\n".join([*tables, about])


def real_tables():
    report = read("real_tables")
    tables, seconds = [], []
    for kind, measures in (("classification", ("AUC", "log loss")), ("regression", ("R2",))):
        found = report[kind]
        ours = next(name for name in found["means"] if name.startswith("Table"))
        header = [kind]
        for measure in measures:
            shown = measure.replace("R2", "R²")
            header += [shown, f"{ours} minus this"]
        rows = []
        for name, means in found["means"].items():
            line = [name]
            for measure in measures:
                line.append(f"{means[measure][0]:.3f}")
                gap = found["ours minus"].get(name, {}).get(measure)
                line.append("" if gap is None else difference(gap, 3))
            line.append("" if name == ours else wins(found["tables"], ours, name, measures[-1]))
            rows.append([*line, f"{means['fit s'][0]:.2f}", f"{means['predict s'][0]:.2f}"])
        tables.append(table([*header, "tables won", "fit, s", "predict, s"], rows))
        names = [f"{one} ({of['rows']} x {of['columns']})" for one, of in found["tables"].items()]
        seconds.append(f"The {len(names)} tables of {kind}: {', '.join(names)}.")
    versions = report["versions"]
    about = (
        "Means over tables, and 95 % intervals over tables of the paired difference; one division "
        "of each table, one training of the net. Tuned estimators choose among eight settings by "
        "cross-validation, which is in their seconds; those of ours are of a second call. "
        f"scikit-learn {versions['scikit-learn']}, jax {versions['jax']}, {report['processor']}."
    )
    return "\n\n".join([*tables, about, *seconds])


def fusions():
    report = read("fusions")
    parts = []
    for data, rows in report["rows"].items():
        names = list(next(iter(rows.values()))["without"])
        header = [f"{data}, 5-way 1-shot, %", "all", *(f"without {name}" for name in names)]
        cells = lambda row: [row["all"], *row["without"].values(), row["untrained"]]
        lines = [
            [name, *(cell(one) for one in cells(row)), f"{row['parameters']:,}"]
            for name, row in rows.items()
        ]
        parts.append(table([*header, "before training", "parameters"], lines))
    about = (
        f"{report['tests']} tasks of classes never seen; {report['steps']} steps of training for "
        f"each net, one seed; {OVER_TASKS}; jax {report['versions']['jax']}."
    )
    return "\n\n".join([*parts, about])


def optimizers():
    report = read("optimizers")
    parts = []
    for name, found in report.items():
        rows = []
        for row, of in found["rows"].items():
            curve = [sum(values) / len(values) for values in zip(*of["curves"], strict=True)]
            middle = curve[len(curve) // 2 - 1]
            setting = f"{of['setting']['rate']:.1e}, {of['setting']['schedule']}"
            last = [sum(of["last"]) / len(of["last"]), min(of["last"]), max(of["last"])]
            shown = "{:.3f} ({:.3f} to {:.3f})".format(*last)
            rows.append([row, setting, f"{curve[4]:.3f}", f"{middle:.3f}", shown])
        header = [f"{name}, {found['parameters']:,} weights", "rate, schedule"]
        header += ["loss after 100 steps", "500", "1000"]
        parts.append(table(header, rows))
    about = (
        "Training losses on new minibatches, of 20 steps each, and over the last 100 steps; means "
        "of the seeds, with the lowest and the highest. One seed for the settings."
    )
    return "\n\n".join([*parts, about])


def wins(tables, ours, name, measure):
    """On how many tables ours is better, "8 of 10"."""
    gaps = [of[ours][measure] - of[name][measure] for of in tables.values()]
    won = sum(gap < 0 if measure == "log loss" else gap > 0 for gap in gaps)
    return f"{won} of {len(gaps)}"


def over_seeds(values):
    """The mean, the smallest and the largest of the seeds that do not diverge on a test task."""
    kept = [value for value in values or () if value < 1000]
    if not kept:
        return "diverges"
    text = f"{sum(kept) / len(kept):.2f} ({min(kept):.2f} to {max(kept):.2f})"
    lost = len(values) - len(kept)
    return f"{text}; {lost} of {len(values)} seeds diverges" if lost else text


def bilevel():
    report = read("bilevel")
    rows = []
    for part in ("reweighting", "distillation"):
        for row in sorted(report[part], key=lambda row: row["accuracy"]):
            rows.append([row["method"], cell([row["accuracy"], row["interval"]])])
    text = table(["digits, accuracy in %", "of the test images"], rows)
    about = f"Means over {report['seeds']} seeds with 95 % intervals, jax {report['jax']}."
    return f"{text}\n\n{about}"


def learned_optimizer():
    report = read("learned_optimizer")
    columns = dict.fromkeys(f"{row['tasks']}, {row['measure']}" for row in report["rows"])
    rows = {}
    for row in report["rows"]:
        text = cell([row["loss"], row["loss_interval"]], 3)
        if row["method"] != "learned":
            paired = [row["learned_minus_this"], row["learned_minus_this_interval"]]
            text += f" ({difference(paired, 3)})"
        rows.setdefault(row["method"], [row["method"]]).append(text)
    text = table(["query loss (learned minus this, paired)", *columns], rows.values())
    about = (
        f"{report['tasks']} tasks each; one seed, {OVER_TASKS}; "
        f"{report['training_seconds']:.0f} s of training, {report['seconds']:.0f} s in all on "
        f"2 CPU cores, jax {report['jax']}."
    )
    return f"{text}\n\n{about}"


RULER = {
    "strokes": "Omniglot image + stroke",
    "digits": "written + spoken digits",
    "hanzi": "Chinese characters, image + stroke + definition",
    "groceries": "groceries, grey + colour",
}


def ruler():
    report = read("ruler")
    header = [
        "5-way, shots",
        "single, by hindsight",
        "single, chosen",
        "equal",
        "static",
        "learned",
        "oracle",
        "learned - hindsight",
        "learned - chosen",
        "learned - static",
        "gap closed",
        "worth, shots",
    ]
    rows = [ruler_row(row) for row in report["rows"]]
    splits = []
    for name, number in report["splits"].items():
        splits.append(f"{RULER[name].split(',')[0]} {number}")
    about = (
        "Accuracy in % with 95 % intervals, differences paired; the single modality is chosen on "
        "validation tasks, or by hindsight on the test. Splits of the classes, each with nets of "
        f"its own: {', '.join(splits)}; {report['tasks']} tasks each. Intervals are over splits, "
        "for Omniglot (one split, several nets) over tasks; those over splits are by Student's t, "
        "and the test classes of different splits overlap. Nets normalise by batch statistics, of "
        "the shots that count and of the queries. Digits have no third part: their weights are "
        "chosen and learned on the five digits of training, on other examples. The vocabulary of "
        f"the definitions is of all characters. {report['seconds'] / 60:.0f} minutes in all on "
        f"{report['threads']} shared CPU cores, jax {report['jax']}."
    )
    return f"{table(header, rows)}\n\n{about}"


def ruler_row(row):
    """The cells of one data set and number of shots."""
    accuracy = row["accuracy"]
    single = max(accuracy[name] for name in row["learned weights"])
    cells = [f"{RULER[row['data']]}, {row['shots']}", cell(single)]
    for name in ("best single", "equal", "static", "learned", "oracle"):
        cells.append(cell(accuracy[name]))
    for name in ("hindsight", "best single", "static"):
        cells.append(difference(row[f"learned minus {name}"]))
    cells.append(f"{row['gap closed']:.2f}")
    if row["shots equivalent"] is None:
        cells.append(f"> {row['most shots']}")
    else:
        cells.append(f"{row['shots equivalent']:.1f}")
    return cells


def modalities():
    report = read("modalities")
    shots = list(report["ruler"])
    rows = []
    for name in report["ruler"][shots[0]]:
        rows.append([name, *(cell(report["ruler"][k][name]) for k in shots)])
    first = table(["letters, 5-way, %", *shots], rows)
    rows = []
    for name, (accuracy, paired) in report["name"].items():
        rows.append([name, cell(accuracy), difference(paired)])
    second = table(["letters, 5-way 1-shot, %", "accuracy", "minus picture only"], rows)
    train, validation, test = report["classes"]
    about = (
        f"{report['tasks']} tasks of {test} letters (random split; {train} to train, {validation} "
        f"to choose and to learn to weigh); one seed, {OVER_TASKS}; "
        f"{report['seconds']:.0f} s, jax {report['jax']}."
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
        within = cell([row["accuracy"], row["interval"]])
        rows.append([row["training"], within, f"{row['random']:.1f}"])
    text = table(["training tasks", "within an alphabet, %", "random 20-way, %"], rows)
    number = len(report["rows"][0]["alphabets"])
    about = (
        f"{report['steps']} steps of one task, {report['tasks']} test tasks of each of the "
        f"{number} alphabets; 95 % intervals over alphabets, one seed. jax "
        f"{report['versions']['jax']}."
    )
    return f"{text}\n\n{about}"


def digits():
    rows = []
    for row in read("differentiate")["digits"]:
        bias = f"{row['bias']:.3f}"
        if row["bias"] < 1e-3:
            bias = f"{row['bias']:.0e}"
        rows.append(
            [
                row["implementation"],
                f"{row['temporary_bytes'] / 1e6:.3g}",
                f"{row['flops'] / 1e9:.3g}",
                f"{row['run_seconds']:.2g}",
                bias,
            ]
        )
    return table(["strategy", "memory, MB", "GFLOP", "seconds", "difference"], rows)


PAGES = {
    "README.md": (first_output, summary),
    "docs/results.md": (
        letters,
        omniglot,
        few_shot,
        alphabets,
        clustering,
        real_tables,
        optimizers,
        sinusoid,
        processes,
        performance.transformer,
        digits,
        bilevel,
        learned_optimizer,
        ruler,
        modalities,
        subsets,
        applications.overview,
        *robustness.MADE,
        performance.peers,
    ),
    "docs/algorithms.md": catalogue.MADE,
    "docs/applications.md": applications.MADE,
    "docs/attribution.md": worth.MADE,
    "docs/bilevel.md": worth.SIGNALS,
    "docs/fast_weights.md": memories.MADE,
    "docs/modalities.md": (fusions,),
    "docs/papers.md": papers.MADE,
    "docs/trust.md": confidence.MADE,
    "docs/performance.md": (*performance.MADE, *worth.ATTENTION),
}


def fill(page, text, tables):
    """The text of a page with its tables made anew."""
    for make in tables:
        pattern = re.compile(rf"(<!-- {make.__name__} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        found = pattern.search(text)
        if found is None:
            sys.exit(f"{page} has no place for {make.__name__}.")
        text = text[: found.end(1)] + make() + text[found.start(2) :]
    return text


def main(options):
    stale = []
    for page, tables in PAGES.items():
        path = ROOT / page
        text = path.read_text()
        filled = fill(page, text, tables)
        if options.check and filled != text:
            stale.append(page)
        if not options.check:
            path.write_text(filled)
    if stale:
        sys.exit(
            f"Tables of {stale} are not those of benchmarks/results; "
            "run python benchmarks/readme.py."
        )


if __name__ == "__main__":
    main(parser.parse_args())
