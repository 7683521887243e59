"""The tables of docs/applications.md, from the files in benchmarks/results/; `readme.py` puts them there."""

import statistics

import jax.numpy as jnp
from tables import ROOT, read, table

import metajax as mj


def cell(value):
    return "{:.1f} ± {:.1f}".format(*value[:2])


def difference(value):
    return "{:+.1f} ± {:.1f}".format(*value[:2])


def about(report):
    return f"{report['seconds']:.0f} s on shared CPU cores, jax {report['jax']}."


def characters():
    report = read("characters")
    rows = [[name, cell(accuracy)] for name, accuracy in report["rows"].items()]
    text = table([f"zero-shot, {report['ways']}-way, %", "accuracy"], rows)
    about = (
        f"{report['tasks']} tasks of {report['test']} characters, {report['train']} others to train, 95 % intervals, "
        f"one seed; {report['seconds']:.0f} s, jax {report['jax']}."
    )
    return f"{text}\n\n{about}"


def languages():
    """Result files of the folds, each language in the test of one, and the values of a method in all languages."""
    files = sorted((ROOT / "benchmarks" / "results").glob("translation-*.json"))
    folds = [read(path.stem) for path in files]
    of = lambda fold, method: next(row for row in fold["rows"] if row["method"] == method)
    return folds, lambda method, column: [
        v for fold in folds for v in of(fold, method).get(column, {}).values()
    ]


def translation():
    folds, line = languages()
    columns = [name for name in folds[0]["rows"][0] if name != "method"]

    def over_languages(values):
        return cell(mj.summarize(jnp.array(values))) if values else ""

    methods = [row["method"] for row in folds[0]["rows"]]
    rows = [
        [method, *(over_languages(line(method, column)) for column in columns)]
        for method in methods
    ]
    parts = [
        " + ".join(str(fold["languages"][part]) for fold in folds)
        for part in ("test", "train", "validation")
    ]
    tuning = "; ".join(
        "{} steps, {} layers, rate {:.0e}".format(*fold["fine_tuning"]["chosen"]) for fold in folds
    )
    return (
        f"{table(['method', *columns], rows)}\n\nExact match in % on languages unseen by the net that is tested, "
        f"{parts[0]} in {len(folds)} folds (their nets are trained on {parts[1]} and set on {parts[2]} others). "
        "Intervals are over languages, the last column paired; columns of a kind of phrase are at 5 pairs. Fine-tuning "
        f"as chosen in each fold: {tuning}. {sum(fold['seconds'] for fold in folds) / 60:.0f} minutes in all on shared "
        f"CPU cores, jax {', '.join(sorted({fold['jax'] for fold in folds}))}."
    )


def task_modes():
    report = read("task_modes")
    families = ("sinusoid", "line", "quadratic", "tanh", "absolute")
    number = lambda value: "{:.2f} ± {:.2f}".format(*value)
    rows = [
        [
            row["method"],
            row["numbers learned"],
            number(row["after"]),
            "{:+.2f} ± {:.2f}".format(*row["minus MAML"]),
        ]
        + [number(row[family]) for family in families]
        for row in report["rows"]
    ]
    text = table(["squared error", "numbers held", "all", "minus MAML", *families], rows)
    return (
        f"{text}\n\n{report['shots']} shots, noise {report['noise']}, five inner steps; {report['tasks']} test tasks, "
        f"95 % intervals over tasks, one training seed of {report['outer_steps']} outer steps. {about(report)}"
    )


def missing():
    report = read("missing")
    percents = list(dict.fromkeys(row["percent"] for row in report["rows"]))
    first, rows = report["rows"][0]["learner"], []
    for name in dict.fromkeys(row["learner"] for row in report["rows"]):
        mine = {row["percent"]: row for row in report["rows"] if row["learner"] == name}
        cells = [cell(mine[percent]["accuracy"]) for percent in percents]
        cells += [difference(mine[percent]["minus"].get(first, (0, 0))) for percent in percents]
        rows.append([name, *cells, cell(mine[percents[-1]]["with recordings"])])
    header = ["digits, %", *(f"{percent} % heard" for percent in percents)]
    header += [f"minus {first}, {percent} %" for percent in percents]
    sizes = report["sizes"]
    return (
        f"{table([*header, f'{percents[-1]} % heard, tested with both'], rows)}\n\n{sizes['train']} training examples, "
        f"tested on the {sizes['pictures']} pictures that a seed did not learn from ({sizes['pairs']} pairs in "
        f"the last "
        f"column), {report['seeds']} seeds, 95 % intervals by Student's t over seeds, differences paired by seed. "
        f"{about(report)}"
    )


def severity():
    report = read("severity")
    best = ("late fusion, equal weights", "learned weights", "gated")
    shown = ("best single modality", best[0], *(f"{method}, trained corrupted" for method in best))
    rows = [
        [f"{row['data']}, {row['corrupted']}", row["method"]]
        + [f"{row['accuracy'][at][0]:.1f}" for at in (0, len(row["accuracy"]) // 2, -1)]
        + [difference(row[f"{kind} robustness"]) for kind in ("relative", "effective")]
        for row in report["rows"]
        if row["in the shots too"] and row["method"] in shown
    ]
    half = report["severities"][len(report["severities"]) // 2]
    header = [
        "corrupted, shots and queries",
        "method",
        "clean, %",
        f"severity {half:.1f}",
        "1",
        "relative",
        "effective",
    ]
    sizes = report["sizes"]
    return (
        f"{table(header, rows)}\n\n{sizes['ways']}-way, {sizes['shots']} shots, {sizes['tasks']} tasks of each of "
        f"{', '.join(f'{number} splits or nets ({name})' for name, number in sizes['splits'].items())}; "
        f"robustness beside "
        f"late fusion with equal weights, in points, 95 % intervals over splits of the digits and over tasks for "
        f"strokes. {about(report)}"
    )


def alignment():
    report = read("alignment")
    titles = {
        "CroMA": "strokes, named from images, %",
        "no teaching": "strokes, named from few strokes, %",
    }
    text = []
    for less, rows in report["rows"].items():
        sign = "CroMA minus it{}" if less == "CroMA" else f"minus {less}{{}}"
        header = [
            titles[less],
            *(c for shots in ("1", "5") for c in (f"{shots} shot", sign.format(f", {shots}"))),
        ]
        cells = [
            [
                row,
                *(
                    c
                    for one in by.values()
                    for c in (cell(one["accuracy"]), difference(one["difference"]))
                ),
            ]
            for row, by in rows.items()
        ]
        text.append(table(header, cells))
    train, _, test = report["classes"]
    return "\n\n".join(text) + (
        f"\n\n{report['tasks']} tasks of {test} characters, {train} others to train; {report['pairs']} "
        f"unlabelled pairs a "
        f"task; intervals over tasks, differences paired; one net and one split of the alphabets. {about(report)}"
    )


def annotations():
    report = read("annotations")
    rows = [
        [f"{row['shots']}", *(cell(row[name]) for name in ("without", "annotated", "permuted"))]
        + [difference(row[name]) for name in row if "minus" in name]
        for row in report["rows"]
    ]
    header = ["radicals, 5-way, shots", "without", "annotated", "annotations permuted"]
    text = table([*header, *(name for name in report["rows"][0] if "minus" in name)], rows)
    return (
        f"{text}\n\n{report['splits']} splits of the radicals ({report['radicals'][0]} to train), "
        f"{report['tasks']} tasks "
        f"each, 95 % intervals by Student's t over splits. {about(report)}"
    )


def intents():
    report = read("intents")
    rows = [
        [name]
        + [
            c
            for shots in ("1", "5")
            for c in (
                cell(report["rows"][shots][name]["accuracy"]),
                cell(report["rows"][shots][name]["nearest"]),
            )
        ]
        + [
            difference(report["minus net from scratch"][shots][name]["accuracy"])
            for shots in ("1", "5")
        ]
        for name in report["rows"]["1"]
    ]
    header = [
        "intents, 5-way, %",
        "1 shot",
        "in or out of scope, 1",
        "5 shots",
        "in or out of scope, 5",
    ]
    return (
        f"{table([*header, 'accuracy minus net from scratch, 1', '5'], rows)}\n\n"
        "Accuracy of queries in scope, and the area under the ROC curve of the nearest class against "
        f"{report['out of scope']} queries out of scope. {report['splits']} splits of the domains, "
        f"{report['tasks']} tasks "
        f"each, 95 % intervals by Student's t over splits, differences paired. {about(report)}"
    )


def groceries():
    report = read("groceries")
    rows = [
        [
            name,
            *(
                c
                for by in report["rows"].values()
                for c in (cell(by[name]["accuracy"]), difference(by[name][less]))
            ),
        ]
        for less in ("minus picture only",)
        for name in report["rows"]["1"]
    ]
    header = [
        "two products of a kind, %",
        "1 shot",
        "minus picture only, 1",
        "5 shots",
        "minus picture only, 5",
    ]
    return (
        f"{table(header, rows)}\n\n{len(report['kinds'])} kinds, each held out in turn, {report['tasks']} tasks "
        f"each; 95 % "
        f"intervals by Student's t over kinds, differences paired. {about(report)}"
    )


def speech():
    report = read("speech")
    text = []
    for part, ways in (("new words", 5), ("new speakers", 10)):
        rows = [[name, cell(by["1"]), cell(by["5"])] for name, by in report["rows"][part].items()]
        text.append(table([f"{part}, {ways}-way, %", "1 shot", "5 shots"], rows))
    rows = [
        [name, difference(by["1"]), difference(by["5"])] for name, by in report["paired"].items()
    ]
    sizes = report["sizes"]
    return "\n\n".join([*text, table(["paired", "1 shot", "5 shots"], rows)]) + (
        f"\n\n{sizes['splits']} splits of the words, {sizes['folds']} folds of speakers, {sizes['tasks']} tasks "
        f"each; 95 % "
        f"intervals by Student's t over splits or folds. {about(report)}"
    )


def video():
    report = read("video")
    shots = {"1": "1 shot", "5": "5 shots"}
    rows = [[name, *(cell(report["rows"][k][name]) for k in shots)] for name in report["rows"]["1"]]
    rows += [
        [name, *(difference(report["paired"][k][name]) for k in shots)]
        for name in report["paired"]["1"]
    ]
    rows += [
        [f"video, {name} seen", *(cell(report["unfinished"][k][name]) for k in shots)]
        for name in report["unfinished"]["1"]
    ]
    sizes, classes = report["sizes"], report["classes"]
    return (
        f"{table(['drawings, 5-way, %', *shots.values()], rows)}\n\n{sizes['tasks']} tasks of {classes['test']} "
        f"characters "
        f"for each of {sizes['nets']} nets, {classes['train']} others to train; 95 % intervals over tasks, differences "
        f"paired. {about(report)}"
    )


def overview():
    """One line of each, for the README."""
    graph, intent, heard = (
        read("characters")["rows"],
        read("intents")["rows"]["1"],
        read("speech")["paired"],
    )
    shop, film, stroke = (
        read("groceries")["rows"]["1"],
        read("video")["rows"]["1"],
        read("alignment")["rows"],
    )
    error = {row["method"]: row["after"][0] for row in read("task_modes")["rows"]}
    drawn, (_, line) = read("annotations")["rows"][0], languages()
    lost = [
        row["minus"]["image only"] for row in read("missing")["rows"] if row["learner"] == "SMIL"
    ]
    exact = {method: line(method, "5 pairs") for method in ("Meta-trained", "Fine-tuned")}
    croma = {row: by["1"]["difference"] for row, by in stroke["CroMA"].items()}
    points = lambda value: f"{difference(value)} points"
    found = {
        (
            "image classification",
            "characters",
            "20-way without a shot, over the graph of what characters are made of",
        ): (
            f"{cell(graph['whole graph, given'])} %, without radicals {cell(graph['without radicals, given'])} %"
        ),
        (
            "machine translation",
            "translation",
            f"{len(exact['Fine-tuned'])} unseen languages, 5 pairs, exact match",
        ): (
            ", ".join(
                f"{method.lower()} {statistics.mean(values):.1f} %"
                for method, values in exact.items()
            )
        ),
        ("text classification", "intents", "new intents, 1 shot, frozen pretrained sentences"): (
            f"{cell(intent['pretrained']['accuracy'])} %, counted words {cell(intent['counted words']['accuracy'])} %"
        ),
        ("out of scope", "intents", "area under the ROC curve, 1 shot, pretrained sentences"): (
            f"{cell(intent['pretrained']['nearest'])} %, counted words {cell(intent['counted words']['nearest'])} %"
        ),
        (
            "speech recognition",
            "speech",
            "new words, 1 shot, meta-trained minus pretrained; minus log-mel",
        ): (
            "; ".join(
                points(heard[f"meta-trained minus {other}"]["1"])
                for other in ("pretrained", "log-mel")
            )
        ),
        ("image + speech", "speech", "digits, 1 shot, written and spoken minus spoken"): (
            points(heard["both minus spoken"]["1"])
        ),
        (
            "image + text",
            "groceries",
            "two products of a kind, 1 shot, with description minus picture only",
        ): (points(shop["description, given"]["minus picture only"])),
        ("image + video", "video", "drawings, 1 shot, picture alone, video alone, both"): (
            ", ".join(cell(film[row]) for row in ("image", "video", "equal")) + " %"
        ),
        (
            "from image to stroke",
            "alignment",
            "strokes named from images, 1 shot, CroMA minus joint alignment; that adapted",
        ): (f"{difference(croma['joint alignment'])}; {points(croma['joint, then adapted'])}"),
        ("annotations", "annotations", "predicted while learning, 1 shot, minus without"): (
            points(drawn["annotated minus without"])
        ),
        (
            "missing recordings",
            "missing",
            "SMIL minus image only, 5 % and 20 % of training examples heard",
        ): (f"{difference(lost[0])} and {points(lost[-1])}"),
        ("tasks of several kinds", "task_modes", "five families of functions, squared error"): (
            f"MMAML {error['MMAML']:.2f}, MAML {error['MAML']:.2f}"
        ),
    }
    script = lambda name: f"`{'benchmarks' if name == 'missing' else 'examples'}/{name}.py`"
    rows = [
        [name, script(file), measured, result] for (name, file, measured), result in found.items()
    ]
    return table(["application", "script", "what is measured", "result"], rows)


MADE = (
    characters, translation, task_modes, missing, severity, alignment, annotations, intents, groceries, speech, video,
)  # fmt: skip
