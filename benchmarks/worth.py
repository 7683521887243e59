"""The tables of attributions, from benchmarks/results/attribution.json."""

from tables import cell, read, table


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


def smooth():
    """The score against batch size, eps_root and activation, with metasmoothness and accuracy."""
    rows = []
    for row in read("attribution")["smoothness"]["found"]:
        setting = [row["batch"], f"{row['eps_root']:g}", row["activation"]]
        rest = [f"{row['smoothness']:.2f}", cell(row["lds"], 2), f"{row['accuracy']:.1f}"]
        rows.append([*setting, *rest])
    header = ["batch", "`eps_root`", "activation", "metasmoothness", "score", "accuracy, %"]
    return table(header, rows)


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
    """What attributions cost, in trainings."""
    rows = []
    for row in read("attribution")["cost"]["found"]:
        rows.append(
            [
                row["hidden"],
                row["steps"],
                row["queries"],
                f"{row['seconds of a training']:.2g}",
                f"{row['trainings']:.1f}",
                f"{row['trainings per query, but for the first']:.2f}",
                f"{row['megabytes']:.0f}",
            ]
        )
    header = ["hidden units", "steps", "queries", "seconds of a training", "cost in trainings"]
    return table([*header, "of each further query", "temporaries, MB"], rows)


MADE = (scores, smooth, wrong_labels, costs)
