"""The tables of how far the answers of one task can be trusted."""

from tables import OVER_TASKS, cell, difference, read, table


def percent(value):
    """[mean, half of the interval] of a share, in percent."""
    return [100 * one for one in value[:2]]


def rows_of(shots):
    """(data, head, row) of every net, at a number of shots."""
    for data, heads in read("single_tasks")["rows"].items():
        for head, rows in heads.items():
            yield data, head, rows[shots]


def about_nets():
    report = read("single_tasks")
    return (
        f"{report['tests']} test tasks of classes never seen and as many of validation classes, 5 "
        f"ways (spoken digits 3); {report['steps']} steps of training for each net, one seed; 95 % "
        "intervals over tasks, those of spoken digits over three splits of the classes; jax "
        f"{report['versions']['jax']}."
    )


def predicted_accuracy():
    """The mean error of a predicted accuracy minus that of the constant, with five shots."""
    return f"{of_predictions('5')}\n\n{about_nets()}"


def predicted_accuracy_of_other_shots():
    return f"With one shot:\n\n{of_predictions('1')}\n\nWith ten:\n\n{of_predictions('10')}"


def of_predictions(shots):
    rows = []
    for data, head, row in rows_of(shots):
        constant = row["predictions"]["constant"]["error"]
        cells = [data, head, cell(percent(row["accuracy"])), cell(percent(constant))]
        for name in ("held out", "learned"):
            found = row["predictions"].get(name)
            if found is None:
                cells += ["", ""]
                continue
            better = difference(percent(found["minus constant"]))
            cells += [better, cell(found["correlation"], 2)]
        inside = [row["interval of trust"], row["interval of the predictor"]]
        cells += [f"{100 * row['floor']:.1f}", *(f"{100 * one[0]:.0f}" for one in inside)]
        rows.append(cells)
    header = ["data", "head", "accuracy, %", "constant is off by, points"]
    header += ["held out, minus constant", "correlation", "learned, minus constant", "correlation"]
    header += ["floor", "inside the interval of `trust`, %", "of the predictor, %"]
    return table(header, rows)


def predicted_gain():
    """What five labels more of each class add, and how well that is predicted."""
    rows = []
    for shots in ("1", "5"):
        for data, head, row in rows_of(shots):
            found = row.get("gain of more labels")
            if found is None:
                continue
            learned = found["learned"]
            rows.append(
                [
                    f"{data}, {shots}",
                    head,
                    difference(percent(found["gain"])),
                    cell(percent(found["constant"]["error"])),
                    difference(percent(learned["minus constant"])),
                    cell(learned["correlation"], 2),
                ]
            )
    header = ["data, shots", "head", "gain of five labels a class, points"]
    header += ["constant is off by", "learned, minus constant", "correlation"]
    return table(header, rows)


def probabilities():
    """Calibration with each temperature, with five shots."""
    names = {
        "none": "as they are",
        "shared": "of all tasks",
        "predicted": "predicted",
        "own": "own",
    }
    rows = []
    for data, head, row in rows_of("5"):
        found = row["calibration"]
        cells = [data, head, f"{row['temperature']:.2f}"]
        cells += [f"{100 * found[name]['pooled']:.1f}" for name in names]
        for measure in ("by task", "Brier", "log loss"):
            digits = 1 if measure == "by task" else 3
            of = lambda name, measure=measure, found=found: found[name][measure]
            values = [percent(of(name)) if digits == 1 else of(name) for name in names]
            cells.append(" / ".join(f"{value[0]:.{digits}f}" for value in values))
        rows.append(cells)
    each = " / ".join(names.values())
    header = [
        "data",
        "head",
        "temperature",
        *(f"error, pooled, %: {one}" for one in names.values()),
    ]
    header += [f"error by task, %: {each}", f"Brier: {each}", f"log loss: {each}"]
    return table(header, rows)


def prediction_sets():
    """Coverage and size of prediction sets, with five and ten shots."""
    rows = []
    for (data, head, five), (*_, ten) in zip(rows_of("5"), rows_of("10"), strict=True):
        cells = [data, head]
        for row in (five, ten):
            found = row["sets"]
            cells += [cell(percent(found["covered"])), cell(found["size"], 2)]
        rows.append(cells)
    header = ["data", "head", "5 shots: covered, %", "labels in a set"]
    return table([*header, "10 shots: covered, %", "labels in a set"], rows)


def left_open():
    """Errors among the surest answers, and queries of no class, with five shots."""
    names = ("probability", "energy", "distance", "neighbour", "learned")
    rows = []
    for data, head, row in rows_of("5"):
        found = row.get("out of scope", {})
        scores = [cell(found[name], 2) if name in found else "" for name in names]
        risks = [f"{100 * risk:.1f}" for risk in row["risk"].values()]
        rows.append([data, head, *risks, *scores])
    header = [f"wrong of the surest {share}, %" for share in row["risk"]]
    header += [f"AUROC: {name}" for name in names]
    return table(["data", "head", *header], rows)


def chosen_labels():
    """Accuracy after five labels that are chosen, and minus that after five at random."""
    report = read("labels")
    rows = []
    for data, heads in report["rows"].items():
        for head, found in heads.items():
            cells = [data, head]
            cells += [cell(percent(found[name]["accuracy"])) for name in ("none", "random")]
            for name in ("uncertainty", "coverage", "learned"):
                cells.append(difference(percent(found[name]["minus random"])))
            rows.append(cells)
    header = ["data", "head", "1 shot, %", "and five labels at random"]
    header += [f"{name}, minus random" for name in ("uncertainty", "coverage", "learned")]
    about = f"{report['tests']} test tasks, differences paired; {OVER_TASKS}; one seed."
    return f"{table(header, rows)}\n\n{about}"


def acquired_modalities():
    """Accuracy with one modality more, and minus that of a random one."""
    report = read("acquire")
    rows = []
    for has, found in report["rows"].items():
        cells = [has]
        cells += [cell(percent(found[name]["accuracy"])) for name in ("before", "random")]
        for name in ("Shapley", "gains", "hindsight"):
            cells.append(difference(percent(found[name]["minus random"])))
        rows.append(cells)
    header = ["what a query has", "accuracy, %", "and a random one"]
    header += [f"{name}, minus random" for name in ("Shapley value", "gains", "hindsight")]
    about = (
        f"Chinese characters, 5-way 1-shot; 95 % intervals over {report['splits']} splits of the "
        f"radicals, whose test classes overlap; {report['tests']} tasks of each."
    )
    return f"{table(header, rows)}\n\n{about}"


def rare_kinds():
    """Mean and worst tenth where some scripts are rare in training."""
    report = read("rare_tasks")
    control, *_ = report["rows"]
    columns = ["mean", "worst tenth", *report["shares"]]
    rows = []
    for arm, found in report["rows"].items():
        cells = [arm]
        for name in columns:
            value = found[name]["accuracy" if arm == control else "minus control"]
            cells.append((cell if arm == control else difference)(percent(value)))
        rows.append(cells)
    shown = [f"{name}, {share:.0%}" for name, share in report["shares"].items()]
    about = (
        f"Letters never seen, all scripts equally often, 5-way 1-shot, accuracy in %; rows below "
        f"the first minus the first. Means over {report['seeds']} seeds with 95 % intervals, "
        f"paired by seed; {report['tests']} test tasks for each."
    )
    return f"{table(['training', 'mean', 'worst tenth', *shown], rows)}\n\n{about}"


def value_intervals():
    """Coverage and width of intervals of predicted values."""
    report = read("value_intervals")
    rows = []
    for learner, tests in report["rows"].items():
        for test, found in tests.items():
            cells = [f"{learner}, {test}"]
            for kind in ("own", "validation", "held out"):
                of = found.get(kind)
                cells += [cell(percent(of["covered"])), cell(of["width"], 2)] if of else ["", ""]
            rows.append(cells)
    header = ["functions"]
    for kind in ("own", "validation", "held out"):
        header += [f"{kind}: covered, %", "width"]
    about = (
        f"Stated coverage {report['coverage']:.0%}, 20 examples; {report['tests']} test tasks, "
        f"{OVER_TASKS}; one seed."
    )
    return f"{table(header, rows)}\n\n{about}"


MADE = (
    predicted_accuracy,
    predicted_accuracy_of_other_shots,
    predicted_gain,
    probabilities,
    prediction_sets,
    left_open,
    chosen_labels,
    acquired_modalities,
    rare_kinds,
    value_intervals,
)
