"""The tables of nets that learn while they read, and of what is forgotten."""

from tables import cell, difference, read, table

CONTROL = "window alone"


def reading():
    """Losses far beyond the trained length, and what each row adds to the window."""
    report = read("reading")
    parts = []
    for data, found in report["found"].items():
        ranges = list(found["rows"][0]["loss"])
        header = [f"{data}, nats a token", "seconds and steps of the best training"]
        for label in (ranges[0], ranges[-1]):
            header += [f"loss at {label} lengths", f"minus {CONTROL}"]
        rows = []
        for row in found["rows"]:
            cells = [row["row"], training_of(row)]
            for label in (ranges[0], ranges[-1]):
                is_control = row["row"] == CONTROL
                gap = "" if is_control else difference(row["difference"][label], 3)
                cells += [cell(row["loss"][label], 3), gap]
            rows.append(cells)
        gains = [
            f"{one['row']} minus {one['minus']}: {difference(one['loss'], 3)}"
            for one in found["gains"]
        ]
        about = (
            f"Trained length {found['length']} tokens, {found['sequences']} test sequences of "
            f"eight times as many; {found['seconds']:.0f} s of processor time for each net. "
            f"Beyond the trained length: {'; '.join(gains)}."
        )
        parts.append(f"{table(header, rows)}\n\n{about}")
    about = (
        f"One seed, 95 % intervals over sequences, differences paired; jax "
        f"{report['versions']['jax']}."
    )
    return "\n\n".join([*parts, about])


def training_of(row):
    """The training that was best on validation sequences, and its best step."""
    if "rate" in row:
        return f"{CONTROL}, rate {row['rate']:g}"
    text = f"{row['seconds']:.0f} s, step {row['best step']} of {row['steps']}"
    before = row.get("ordinary training")
    return text if before is None else f"{before['seconds']:.0f} s, then {text}"


def fast_layers():
    """What a training step of the layer costs, against the chunk."""
    report = read("fast_weights")
    sizes = sorted({row["chunk"] for row in report["chunks"] if row["form"] == "dual form"})
    rows = {}
    for row in report["chunks"]:
        cells = rows.setdefault(row["layer"], {})
        cells[row["chunk"] if row["form"] == "dual form" else row["form"]] = cost(row)
    columns = [*sizes, "token by token"]
    attention = rows.pop("causal attention")[""]
    lines = [[layer, *(cells[column] for column in columns)] for layer, cells in rows.items()]
    header = ["ms and MB of a step", *(f"chunks of {size}" for size in sizes), "token by token"]
    about = (
        f"{report['sequences']} sequences of {report['tokens']} tokens, width {report['width']}, "
        f"{report['heads']} heads; token by token in chunks of 16. Causal attention: {attention}. "
        f"Medians of {report['chunks'][0]['repeats']}, {report['threads']} CPU cores, jax "
        f"{report['versions']['jax']}."
    )
    return f"{table(header, lines)}\n\n{about}"


def fast_lengths():
    """The same against the length of the sequence."""
    rows = {}
    for row in read("fast_weights")["lengths"]:
        rows.setdefault(row["layer"], {})[row["tokens"]] = cost(row)
    lengths = list(next(iter(rows.values())))
    lines = [[layer, *cells.values()] for layer, cells in rows.items()]
    return table(["ms and MB of a step", *(f"{length} tokens" for length in lengths)], lines)


def fast_strategies():
    """The meta-gradient through the layer by each strategy."""
    rows = {}
    for row in read("fast_weights")["strategies"]:
        rows.setdefault(row["layer"], {})[row["strategy"]] = cost(row)
    names = list(next(iter(rows.values())))
    lines = [[layer, *cells.values()] for layer, cells in rows.items()]
    header = ["ms and MB of a meta-gradient", *(f"`{name}`" for name in names)]
    return table(header, lines)


def cost(row):
    """Milliseconds and megabytes of temporaries."""
    return f"{1000 * row['seconds']:.0f}, {row['temporary_bytes'] / 1e6:.0f}"


def continual():
    """What is known of fifty characters after a stream of them."""
    report = read("continual")
    rows = []
    for row in report["rows"]:
        is_control = row is report["rows"][0]
        gap = "" if is_control else difference(row["minus class means"])
        cells = [cell(row[name]) for name in ("accuracy", "learned", "forgotten")]
        rows.append([row["learner"], cells[0], gap, *cells[1:]])
    header = ["%", "accuracy at the end", "minus the first row", "just after a task", "forgotten"]
    sizes, seconds, rates = report["sizes"], report["seconds"], report["rates"]
    about = (
        f"{sizes['streams']} streams of {sizes['ways'] * sizes['tasks']} new characters, "
        f"{sizes['shots']} examples of each; 95 % intervals over streams, differences paired. "
        f"Trained for {seconds['classification']:.0f} s (classification) and "
        f"{seconds['OML']:.0f} s (OML) on one core; step sizes {rates['head'][0]:g} (head) and "
        f"{rates['whole net'][0]:g} (whole net), chosen of {len(rates['head'][1])} on validation "
        f"streams; jax {report['versions']['jax']}."
    )
    return f"{table(header, rows)}\n\n{about}"


MADE = (reading, continual, fast_layers, fast_lengths, fast_strategies)
