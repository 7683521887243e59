"""The tables of docs/performance.md and those of speed in the README, as `readme.py` writes them."""

from tables import read, table

RUNS = ("w1", "w2", "w2-32-tasks")


def peers():
    rows, machines = [], []
    for name in RUNS:
        report = read(f"peers-{name}")
        rows += [_peer(row) for row in report["rows"]]
        machines.append(machine(report))
    header = [
        "workload",
        "implementation",
        "ms a step",
        "speed",
        "temporaries, MB",
        "compilation, s",
    ]
    where = (
        machines[0]
        if len({*machines}) == 1
        else " ".join(f"{n.upper()}: {m}" for n, m in zip(RUNS, machines, strict=True))
    )
    about = (
        "Medians with 95 % intervals; speed against the fastest peer; compilation includes tracing. The difference of "
        "gradients is from metajax in float64; rounding is the difference of an implementation's gradient in float32 "
        f"from its own in float64. {where}"
    )
    return f"{table([*header, 'difference', 'rounding'], rows)}\n\n{about}"


def _peer(row):
    memory = f"{row['temporary_bytes'] / 1e6:.3g}" if "temporary_bytes" in row else ""
    first = (
        f"{row['trace_seconds'] + row['compile_seconds']:.0f}" if "compile_seconds" in row else ""
    )
    name = row["implementation"] + (f" ({row['variant']})" if row["variant"] else "")
    cells = [row["workload"], name, milliseconds(row), f"{row['ratio']:.2f}x", memory, first]
    return [*cells, f"{row['gradient_error']:.0e}", f"{row['rounding']:.0e}"]


def transformer():
    report = read("memory")
    first, rows = report["rows"][0], []
    for row in report["rows"]:
        less = first["temporary_bytes"] / row["temporary_bytes"]
        cells = [
            row["implementation"],
            f"{row['temporary_bytes'] / 1e6:.4g}",
            f"{less:.1f}x",
            f"{row['seconds']:.2g}",
        ]
        cells += [f"{row['ratio']:.1f}x", f"{row['trace_seconds'] + row['compile_seconds']:.1f}"]
        rows.append([*cells, f"{row['gradient_error']:.0e}"])
    header = [
        "strategy",
        "memory, MB",
        "less memory",
        "seconds",
        "faster",
        "compilation, s",
        "difference",
    ]
    return f"{table(header, rows)}\n\nFloat32. {machine(report)}"


def devices():
    report = read("devices")
    rows = [
        [
            row["workload"],
            row["devices"],
            row["processes"],
            f"{row['tasks_on_a_device']} of {row['tasks']}",
            milliseconds(row),
            f"{row['ratio']:.2f}",
            f"{row['gradient_error']:.0e}",
            f"{row['rounding']:.0e}",
        ]
        for row in report["rows"]
    ]
    header = ["workload", "devices", "processes", "tasks on each", "ms a step", "of one device's"]
    return f"{table([*header, 'difference', 'rounding'], rows)}\n\n{machine(report)}"


def episodes():
    report = read("episodes")
    rows = [
        [row["implementation"], f"{row['a_second']:,.0f}", f"{row['ratio']:.2f}"]
        for row in report["rows"]
    ]
    share = report["share"]
    about = (
        f"Batches of {report['rows'][0]['tasks']}. Drawing the {share['tasks']} tasks of a step of W2 takes "
        f"{1e3 * share['draw_seconds']:.1f} ms, {100 * share['share']:.1f} % of that step. {machine(report)}"
    )
    return f"{table(['sampler', 'episodes a second', 'of `np.take`'], rows)}\n\n{about}"


def feed():
    report = read("feed")
    rows = [[row["implementation"], milliseconds(row)] for row in report["rows"]]
    held = report["held_bytes"]
    about = (
        f"W2 with a file of {report['file_bytes'] / 1e9:g} GB, in a process that may hold "
        f"{report['limit_bytes'] / 1e9:g}: {report['ratio']:.3f} of the step on resident tasks. While "
        f"{report['tasks']:,} tasks are read, the process holds {held[0] / 1e6:.0f} MB after the first tenth and "
        f"{held[-1] / 1e6:.0f} MB at the end. {machine(report)}"
    )
    return f"{table(['tasks', 'ms a step'], rows)}\n\n{about}"


def growth():
    report = read("growth")
    rows = []
    for axis, fit in report["fits"].items():
        mine = [row for row in report["rows"] if row["workload"] == axis]
        power = axis in ("width", "sequence length")
        law = f"n^{fit['b']:.2f}" if power else f"{1e3 * fit['a']:.0f} + {1e3 * fit['b']:.3g} n ms"
        times, memory = (" ".join(f"{value:.3g}" for value in values) for values in (
            [1e3 * row["seconds"] for row in mine], [row["temporary_bytes"] / 1e6 for row in mine],
        ))  # fmt: skip
        numbers = " ".join(str(row["number"]) for row in mine)
        rows.append([axis, numbers, times, law, f"{100 * fit['residual']:.0f} %", memory])
    header = ["n", "values", "ms a step", "fit", "largest residual", "temporaries, MB"]
    return f"{table(header, rows)}\n\n{machine(report)}"


def milliseconds(row):
    return "{:.4g} ({:.4g} to {:.4g})".format(
        *(1e3 * value for value in (row["seconds"], *row["interval"]))
    )


def machine(report):
    versions = ", ".join(
        f"{name} {number}" for name, number in report["versions"].items() if number
    )
    return f"{report['threads']} CPU cores ({report['processor']}), {versions}; commit {report['commit']}."


MADE = (devices, episodes, feed, growth)
