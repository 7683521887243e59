"""The tables of docs/applications.md, and their overview in docs/results.md.

`readme.py` writes them into the page.
"""

import statistics

import jax.numpy as jnp
from tables import OVER_TASKS, ROOT, cell, difference, read, table

import metajax as mj

SHOTS = {"1": "1 shot", "5": "5 shots"}


def about(report):
    """Where and how long a script ran."""
    return f"{report['seconds']:.0f} s on shared CPU cores, jax {report['jax']}."


def characters():
    report = read("characters")
    rows = [[name, cell(accuracy)] for name, accuracy in report["rows"].items()]
    text = table([f"zero-shot, {report['ways']}-way, %", "accuracy"], rows)
    return (
        f"{text}\n\n{report['tasks']} tasks of {report['test']} characters, {report['train']} "
        f"others to train; one seed, {OVER_TASKS}; "
        f"{report['seconds']:.0f} s, jax {report['jax']}."
    )


def language_folds():
    """The result files of the folds. Each language is in the test part of one fold."""
    files = sorted((ROOT / "benchmarks" / "results").glob("translation-*.json"))
    return [read(path.stem) for path in files]


def over_languages(folds, method, column):
    """The values of a method in all languages of all folds."""
    values = []
    for fold in folds:
        row = next(row for row in fold["rows"] if row["method"] == method)
        values += row.get(column, {}).values()
    return values


def translation():
    folds = language_folds()
    columns = [name for name in folds[0]["rows"][0] if name != "method"]
    rows = []
    for method in [row["method"] for row in folds[0]["rows"]]:
        cells = [method]
        for column in columns:
            values = over_languages(folds, method, column)
            cells.append(cell(mj.summarize(jnp.array(values))) if values else "")
        rows.append(cells)
    sizes = {}
    for part in ("test", "train", "validation"):
        sizes[part] = " + ".join(str(fold["languages"][part]) for fold in folds)
    chosen = [fold["fine_tuning"]["chosen"] for fold in folds]
    tuning = "; ".join("{} steps, {} layers, rate {:.0e}".format(*one) for one in chosen)
    minutes = sum(fold["seconds"] for fold in folds) / 60
    versions = ", ".join(sorted({fold["jax"] for fold in folds}))
    return (
        f"{table(['method', *columns], rows)}\n\n"
        "Exact match in % on languages unseen by the net that is tested, "
        f"{sizes['test']} in {len(folds)} folds (their nets are trained on {sizes['train']} and "
        f"set on {sizes['validation']} others). "
        "Intervals are over languages, the last column paired; columns of a kind of phrase are at "
        f"5 pairs. Fine-tuning as chosen in each fold: {tuning}. {minutes:.0f} minutes in all on "
        f"shared CPU cores, jax {versions}."
    )


def task_modes():
    report = read("task_modes")
    families = ("sinusoid", "line", "quadratic", "tanh", "absolute")
    rows = []
    for row in report["rows"]:
        cells = [row["method"], row["numbers learned"], cell(row["after"], 2)]
        cells.append(difference(row["minus MAML"], 2))
        cells += [cell(row[family], 2) for family in families]
        rows.append(cells)
    header = ["squared error", "parameters", "all", "minus MAML", *families]
    return (
        f"{table(header, rows)}\n\n{report['shots']} shots, noise {report['noise']}, five inner "
        f"steps; {report['tasks']} test tasks; one training seed of {report['outer_steps']} outer "
        f"steps, {OVER_TASKS}. {about(report)}"
    )


def missing():
    report = read("missing")
    percents = list(dict.fromkeys(row["percent"] for row in report["rows"]))
    last = percents[-1]
    first = report["rows"][0]["learner"]
    rows = []
    for name in dict.fromkeys(row["learner"] for row in report["rows"]):
        mine = {row["percent"]: row for row in report["rows"] if row["learner"] == name}
        cells = [name]
        cells += [cell(mine[percent]["accuracy"]) for percent in percents]
        cells += [difference(mine[percent]["minus"].get(first, (0, 0))) for percent in percents]
        cells.append(cell(mine[last]["with recordings"]))
        rows.append(cells)
    header = ["digits, %", *(f"{percent} % with sound" for percent in percents)]
    header += [f"minus {first}, {percent} %" for percent in percents]
    header.append(f"{last} % with sound, tested with both")
    sizes = report["sizes"]
    return (
        f"{table(header, rows)}\n\n{sizes['train']} training examples, tested on the "
        f"{sizes['pictures']} pictures that a seed did not learn from ({sizes['pairs']} pairs in "
        f"the last column), {report['seeds']} seeds, 95 % intervals by Student's t over seeds, "
        f"differences paired by seed. {about(report)}"
    )


SEVERITY = (
    "best single modality",
    "late fusion, equal weights",
    "late fusion, equal weights, trained corrupted",
    "learned weights, trained corrupted",
    "gated, trained corrupted",
)
"""The methods of the table of `severity`."""


def severity():
    report = read("severity")
    rows = []
    for row in report["rows"]:
        if row["in the shots too"] and row["method"] in SEVERITY:
            rows.append(severity_row(row))
    middle = report["severities"][len(report["severities"]) // 2]
    header = [
        "corrupted, shots and queries",
        "method",
        "clean, %",
        f"severity {middle:.1f}",
        "1",
        "relative",
        "effective",
    ]
    sizes = report["sizes"]
    splits = [f"{number} splits or nets ({name})" for name, number in sizes["splits"].items()]
    return (
        f"{table(header, rows)}\n\n{sizes['ways']}-way, {sizes['shots']} shots, {sizes['tasks']} "
        f"tasks of each of {', '.join(splits)}; robustness beside late fusion with equal weights, "
        "in points, 95 % intervals over splits of the digits and over tasks for strokes. "
        f"{about(report)}"
    )


def severity_row(row):
    """The cells of one method."""
    cells = [f"{row['data']}, {row['corrupted']}", row["method"]]
    for place in (0, len(row["accuracy"]) // 2, -1):
        mean = row["accuracy"][place][0]
        cells.append(f"{mean:.1f}")
    for kind in ("relative", "effective"):
        cells.append(difference(row[f"{kind} robustness"]))
    return cells


def alignment():
    report = read("alignment")
    titles = {
        "CroMA": "strokes, named from images, %",
        "no teaching": "strokes, named from few strokes, %",
    }
    text = []
    for reference, methods in report["rows"].items():
        sign = "CroMA minus it" if reference == "CroMA" else f"minus {reference}"
        header = [titles[reference]]
        for shots in ("1", "5"):
            header += [f"{shots} shot", f"{sign}, {shots}"]
        rows = []
        for method, by_shots in methods.items():
            cells = [method]
            for row in by_shots.values():
                cells += [cell(row["accuracy"]), difference(row["difference"])]
            rows.append(cells)
        text.append(table(header, rows))
    train, _, test = report["classes"]
    text.append(
        f"{report['tasks']} tasks of {test} characters, {train} others to train; "
        f"{report['pairs']} unlabelled pairs a task; one net and one split of the alphabets, "
        f"{OVER_TASKS}; differences paired. {about(report)}"
    )
    return "\n\n".join(text)


def annotations():
    report = read("annotations")
    paired = [name for name in report["rows"][0] if "minus" in name]
    rows = []
    for row in report["rows"]:
        cells = [row["shots"]]
        cells += [cell(row[name]) for name in ("without", "annotated", "permuted")]
        cells += [difference(row[name]) for name in paired]
        rows.append(cells)
    header = ["radicals, 5-way, shots", "without", "annotated", "annotations permuted", *paired]
    return (
        f"{table(header, rows)}\n\n{report['splits']} splits of the radicals "
        f"({report['radicals'][0]} to train), {report['tasks']} tasks each, 95 % intervals by "
        f"Student's t over splits. {about(report)}"
    )


def intents():
    report = read("intents")
    minus = report["minus net from scratch"]
    rows = []
    for name in report["rows"]["1"]:
        cells = [name]
        for shots in SHOTS:
            row = report["rows"][shots][name]
            cells += [cell(row["accuracy"]), cell(row["nearest"])]
        cells += [difference(minus[shots][name]["accuracy"]) for shots in SHOTS]
        rows.append(cells)
    header = [
        "intents, 5-way, %",
        "1 shot",
        "in or out of scope, 1",
        "5 shots",
        "in or out of scope, 5",
        "accuracy minus net from scratch, 1",
        "5",
    ]
    return (
        f"{table(header, rows)}\n\n"
        "Accuracy of queries in scope, and the area under the ROC curve of the nearest class "
        f"against {report['out of scope']} queries out of scope. {report['splits']} splits of the "
        f"domains, {report['tasks']} tasks each, 95 % intervals by Student's t over splits, "
        f"differences paired. {about(report)}"
    )


def groceries():
    report = read("groceries")
    rows = []
    for name in report["rows"]["1"]:
        cells = [name]
        for by_method in report["rows"].values():
            row = by_method[name]
            cells += [cell(row["accuracy"]), difference(row["minus picture only"])]
        rows.append(cells)
    header = [
        "two products of a kind, %",
        "1 shot",
        "minus picture only, 1",
        "5 shots",
        "minus picture only, 5",
    ]
    return (
        f"{table(header, rows)}\n\n{len(report['kinds'])} kinds, each held out in turn, "
        f"{report['tasks']} tasks each; 95 % intervals by Student's t over kinds, differences "
        f"paired. {about(report)}"
    )


def speech():
    report = read("speech")
    text = []
    for part, ways in (("new words", 5), ("new speakers", 10)):
        rows = []
        for name, by_shots in report["rows"][part].items():
            rows.append([name, *(cell(by_shots[shots]) for shots in SHOTS)])
        text.append(table([f"{part}, {ways}-way, %", *SHOTS.values()], rows))
    rows = []
    for name, by_shots in report["paired"].items():
        rows.append([name, *(difference(by_shots[shots]) for shots in SHOTS)])
    text.append(table(["paired", *SHOTS.values()], rows))
    sizes = report["sizes"]
    text.append(
        f"{sizes['splits']} splits of the words, {sizes['folds']} folds of speakers, "
        f"{sizes['tasks']} tasks each; 95 % intervals by Student's t over splits or folds. "
        f"{about(report)}"
    )
    return "\n\n".join(text)


def video():
    report = read("video")
    rows = []
    for name in report["rows"]["1"]:
        rows.append([name, *(cell(report["rows"][shots][name]) for shots in SHOTS)])
    for name in report["paired"]["1"]:
        rows.append([name, *(difference(report["paired"][shots][name]) for shots in SHOTS)])
    for name in report["unfinished"]["1"]:
        values = [report["unfinished"][shots][name] for shots in SHOTS]
        rows.append([f"video, {name} seen", *map(cell, values)])
    sizes = report["sizes"]
    classes = report["classes"]
    return (
        f"{table(['drawings, 5-way, %', *SHOTS.values()], rows)}\n\n{sizes['tasks']} tasks of "
        f"{classes['test']} characters for each of {sizes['nets']} nets, {classes['train']} others "
        f"to train; {OVER_TASKS}; differences paired. {about(report)}"
    )


def overview():
    """One line for each application, for docs/results.md."""
    made = (
        of_graphs(),
        of_languages(),
        *of_intents(),
        *of_speech(),
        of_groceries(),
        of_video(),
        of_alignment(),
        of_annotations(),
        of_missing(),
        of_task_modes(),
    )
    rows = []
    for name, script, measured, result in made:
        folder = "benchmarks" if script == "missing" else "examples/applications"
        if script == "task_modes":
            folder = "examples/research"
        rows.append([name, f"`{folder}/{script}.py`", measured, result])
    return table(["application", "script", "what is measured", "result"], rows)


def points(value):
    return f"{difference(value)} points"


def of_graphs():
    rows = read("characters")["rows"]
    whole = cell(rows["whole graph, given"])
    without = cell(rows["without radicals, given"])
    return (
        "image classification",
        "characters",
        "20-way without a shot, over the graph of what characters are made of",
        f"{whole} %, without radicals {without} %",
    )


def of_languages():
    folds = language_folds()
    results = []
    for method in ("Meta-trained", "Fine-tuned"):
        values = over_languages(folds, method, "5 pairs")
        results.append(f"{method.lower()} {statistics.mean(values):.1f} %")
    return (
        "machine translation",
        "translation",
        f"{len(values)} unseen languages, 5 pairs, exact match",
        ", ".join(results),
    )


def of_intents():
    rows = read("intents")["rows"]["1"]
    results = []
    for measure in ("accuracy", "nearest"):
        pretrained = cell(rows["pretrained"][measure])
        counted = cell(rows["counted words"][measure])
        results.append(f"{pretrained} %, counted words {counted} %")
    return (
        (
            "text classification",
            "intents",
            "new intents, 1 shot, frozen pretrained sentences",
            results[0],
        ),
        (
            "out of scope",
            "intents",
            "area under the ROC curve, 1 shot, pretrained sentences",
            results[1],
        ),
    )


def of_speech():
    paired = read("speech")["paired"]
    gains = [paired[f"meta-trained minus {other}"]["1"] for other in ("pretrained", "log-mel")]
    return (
        (
            "speech recognition",
            "speech",
            "new words, 1 shot, meta-trained minus pretrained; minus log-mel",
            "; ".join(map(points, gains)),
        ),
        (
            "image + speech",
            "speech",
            "digits, 1 shot, written and spoken minus spoken",
            points(paired["both minus spoken"]["1"]),
        ),
    )


def of_groceries():
    rows = read("groceries")["rows"]["1"]
    return (
        "image + text",
        "groceries",
        "two products of a kind, 1 shot, with description minus picture only",
        points(rows["description, given"]["minus picture only"]),
    )


def of_video():
    rows = read("video")["rows"]["1"]
    return (
        "image + video",
        "video",
        "drawings, 1 shot, picture alone, video alone, both",
        ", ".join(cell(rows[name]) for name in ("image", "video", "equal")) + " %",
    )


def of_alignment():
    rows = read("alignment")["rows"]["CroMA"]
    joint = rows["joint alignment"]["1"]["difference"]
    adapted = rows["joint, then adapted"]["1"]["difference"]
    return (
        "from image to stroke",
        "alignment",
        "strokes named from images, 1 shot, CroMA minus joint alignment; that adapted",
        f"{difference(joint)}; {points(adapted)}",
    )


def of_annotations():
    return (
        "annotations",
        "annotations",
        "predicted while learning, 1 shot, minus without",
        points(read("annotations")["rows"][0]["annotated minus without"]),
    )


def of_missing():
    lost = []
    for row in read("missing")["rows"]:
        if row["learner"] == "SMIL":
            lost.append(row["minus"]["image only"])
    return (
        "missing recordings",
        "missing",
        "SMIL minus image only, 5 % and 20 % of training examples with sound",
        f"{difference(lost[0])} and {points(lost[-1])}",
    )


def of_task_modes():
    error = {row["method"]: row["after"][0] for row in read("task_modes")["rows"]}
    return (
        "tasks of several kinds",
        "task_modes",
        "five families of functions, squared error",
        f"MMAML {error['MMAML']:.2f}, MAML {error['MAML']:.2f}",
    )


MADE = (
    characters,
    translation,
    task_modes,
    missing,
    severity,
    alignment,
    annotations,
    intents,
    groceries,
    speech,
    video,
)
