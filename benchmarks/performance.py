"""The tables of speed in docs/performance.md and docs/results.md; `readme.py` writes them."""

from tables import read, table

RUNS = ("w1", "w2", "w2-32-tasks")
POWER = ("width", "sequence length")


def peers():
    rows = []
    machines = {}
    for name in RUNS:
        report = read(f"peers-{name}")
        rows += [peer(row) for row in report["rows"]]
        machines[name] = machine(report)
    header = [
        "workload",
        "implementation",
        "ms a step",
        "speed",
        "temporaries, MB",
        "compilation, s",
        "difference",
        "rounding",
    ]
    if len(set(machines.values())) == 1:
        where = machines[RUNS[0]]
    else:
        where = " ".join(f"{name.upper()}: {text}" for name, text in machines.items())
    about = (
        "Medians with 95 % intervals; speed against the fastest peer; compilation includes "
        "tracing. The difference of gradients is from metajax in float64; rounding is the "
        "difference of an implementation's gradient in float32 from its own in float64. "
        f"{where}"
    )
    return f"{table(header, rows)}\n\n{about}"


def peer(row):
    """The cells of one implementation."""
    memory = ""
    if "temporary_bytes" in row:
        memory = megabytes(row)
    compilation = ""
    if "compile_seconds" in row:
        compilation = f"{compile_seconds(row):.0f}"
    name = row["implementation"]
    if row["variant"]:
        name += f" ({row['variant']})"
    return [
        row["workload"],
        name,
        milliseconds(row),
        f"{row['ratio']:.2f}x",
        memory,
        compilation,
        f"{row['gradient_error']:.0e}",
        f"{row['rounding']:.0e}",
    ]


def transformer():
    report = read("memory")
    most = report["rows"][0]["temporary_bytes"]
    rows = [
        [
            row["implementation"],
            megabytes(row, 4),
            f"{most / row['temporary_bytes']:.1f}x",
            f"{row['seconds']:.2g}",
            f"{row['ratio']:.1f}x",
            f"{compile_seconds(row):.1f}",
            f"{row['gradient_error']:.0e}",
        ]
        for row in report["rows"]
    ]
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
            f"{row['workload']}, {row['scaling']}{', params in 2 parts' * (row['parts'] > 1)}",
            row["devices"],
            row["processes"],
            f"{row['tasks_on_a_device']} of {row['tasks']}",
            milliseconds(row),
            f"{row['ratio']:.2f}",
            f"{(row['argument_bytes'] + row['temporary_bytes']) / 1e6:.3g}",
            " + ".join(f"{number} {kind}" for kind, number in row["messages"].items()) or "none",
            f"{row['gradient_error']:.0e}" if "gradient_error" in row else "",
            f"{row['rounding']:.0e}" if "rounding" in row else "",
        ]
        for row in report["rows"]
    ]
    header = [
        "workload, scaling",
        "devices",
        "processes",
        "tasks on each",
        "ms a step",
        "a task, of one device's",
        "MB on a device",
        "messages",
        "difference",
        "rounding",
    ]
    return f"{table(header, rows)}\n\n{machine(report)}"


def fits_on_devices():
    report = read("devices")
    rows = [
        [
            row["devices"],
            row["processes"],
            f"{row['difference']:.0e}",
            row["skipped"],
            row["logged"],
        ]
        for row in report["fits"]
    ]
    header = ["devices", "processes", "difference of the params", "tasks skipped", "lines logged"]
    about = f"{report['fit_steps']} steps, float64, a record every 10 steps."
    return f"{table(header, rows)}\n\n{about}"


def streams_on_devices():
    rows = [
        [
            row["devices"],
            row["processes"],
            f"{1e3 * row['in memory']['seconds']:.4g}",
            f"{1e3 * row['streamed']['seconds']:.4g}",
        ]
        for row in read("devices")["streams"]
    ]
    return table(["devices", "processes", "ms a step, in memory", "ms a step, streamed"], rows)


def gpus_on_paper():
    report = read("devices")
    rows = [
        [
            row["workload"],
            row["gpus"],
            row["tasks_on_each"],
            f"{1e3 * row['compute_seconds']:.3g}",
            f"{1e3 * row['message_seconds']:.3g}",
            f"{row['efficiency']:.2f}",
        ]
        for row in report["on_paper"]
    ]
    header = ["workload", "GPUs", "tasks on each", "compute, ms", "message, ms", "efficiency"]
    gpu = report["gpu"]
    about = (
        f"{gpu['name']}: {gpu['flops'] / 1e12:.0f} TFLOP/s, {gpu['inside'] / 1e9:.0f} GB/s inside "
        f"a host of eight, {gpu['between'] / 1e9:.0f} GB/s between hosts, "
        f"{1e6 * gpu['latency']:.0f} µs a message. "
        f"This CPU: {report['peak_of_cpu'] / 1e12:.3f} TFLOP/s."
    )
    return f"{table(header, rows)}\n\n{about}"


def episodes():
    report = read("episodes")
    rows = [
        [row["implementation"], f"{row['a_second']:,.0f}", f"{row['ratio']:.2f}"]
        for row in report["rows"]
    ]
    tasks = report["rows"][0]["tasks"]
    share = report["share"]
    about = (
        f"Batches of {tasks}. Drawing the {share['tasks']} tasks of a step of W2 takes "
        f"{1e3 * share['draw_seconds']:.1f} ms, {100 * share['share']:.1f} % of that step. "
        f"{machine(report)}"
    )
    return f"{table(['sampler', 'episodes a second', 'of `np.take`'], rows)}\n\n{about}"


def feed():
    report = read("feed")
    rows = [[row["implementation"], milliseconds(row)] for row in report["rows"]]
    first = report["held_bytes"][0]
    last = report["held_bytes"][-1]
    about = (
        f"W2 with a file of {report['file_bytes'] / 1e9:g} GB, in a process that may use "
        f"{report['limit_bytes'] / 1e9:g}: {report['ratio']:.3f} of the step on resident tasks. "
        f"While {report['tasks']:,} tasks are read, the process uses {first / 1e6:.0f} MB after "
        f"the first tenth and {last / 1e6:.0f} MB at the end. {machine(report)}"
    )
    return f"{table(['tasks', 'ms a step'], rows)}\n\n{about}"


def growth():
    report = read("growth")
    rows = []
    for axis, fit in report["fits"].items():
        mine = [row for row in report["rows"] if row["workload"] == axis]
        rows.append(
            [
                axis,
                " ".join(str(row["number"]) for row in mine),
                " ".join(f"{1e3 * row['seconds']:.3g}" for row in mine),
                law(axis, fit),
                f"{100 * fit['residual']:.0f} %",
                " ".join(megabytes(row) for row in mine),
            ]
        )
    header = ["n", "values", "ms a step", "fit", "largest residual", "temporaries, MB"]
    return f"{table(header, rows)}\n\n{machine(report)}"


def law(axis, fit):
    """How the time grows with n."""
    if axis in POWER:
        return f"n^{fit['b']:.2f}"
    return f"{1e3 * fit['a']:.0f} + {1e3 * fit['b']:.3g} n ms"


def milliseconds(row):
    """The median with its interval."""
    values = [1e3 * value for value in (row["seconds"], *row["interval"])]
    return "{:.4g} ({:.4g} to {:.4g})".format(*values)


def megabytes(row, digits=3):
    """The temporary memory of a program."""
    return f"{row['temporary_bytes'] / 1e6:.{digits}g}"


def compile_seconds(row):
    """Seconds until a program is compiled, tracing included."""
    return row["trace_seconds"] + row["compile_seconds"]


def machine(report):
    """Where a result was measured."""
    versions = [f"{name} {number}" for name, number in report["versions"].items() if number]
    cores = f"{report['threads']} CPU cores ({report['processor']})"
    return f"{cores}, {', '.join(versions)}; commit {report['commit']}."


def sweeps():
    report = read("sweeps")
    rows = [
        [
            row["method"],
            row["steps"],
            f"{row['seconds']:.0f}",
            f"{row['megabytes']:.0f}",
            f"seed {row['best']['seed']}, rate {row['best']['rate']:.0e}",
            f"{row['error']:.3f}",
        ]
        for row in report["rows"]
    ]
    sizes = report["sizes"]
    header = ["method", "outer steps of all runs", "s", "MB", "the best run", "its error"]
    about = (
        f"{sizes['seeds']} seeds x {len(sizes['rates'])} outer rates, {sizes['steps']} steps of "
        f"{sizes['tasks']} tasks; the worse half is stopped after {sizes['halve_at']} steps; "
        f"{sizes['validation']} validation tasks. With compilation. {machine(report)}"
    )
    return f"{table(header, rows)}\n\n{about}"


MADE = (
    devices,
    fits_on_devices,
    streams_on_devices,
    gpus_on_paper,
    sweeps,
    episodes,
    feed,
    growth,
)
