"""Workload W5: steps over 1, 2, 4 and 8 devices and over several processes, and `fit` on them.

The devices are simulated on one CPU and share its cores: more of them than there are cores only
show what dividing costs. "Strong" divides the same tasks, "weak" gives each device as many as one
has alone. Gradients in float64 are compared ("rounding" is how far float32 is off), and the number
of tasks on a device and the messages between devices are read off the compiled program. Each
configuration runs in processes of its own, and the runs are interleaved.

Then `training.fit` takes 50 steps on each configuration, with evaluation, checkpoints, a log and
tasks that are skipped, and its end is compared with that of one device. Writes
benchmarks/results/devices.json.

python benchmarks/devices.py
python benchmarks/devices.py --tiny --out /tmp/results    # to see that it runs
"""

import argparse
import pathlib
import socket
import tempfile

import harness
import jax
import jax.numpy as jnp
import numpy as np
import workloads

import metajax as mj

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--workloads", nargs="+", default=["W1", "W2"])
parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
parser.add_argument("--processes", type=int, nargs="*", default=[2, 4])
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)

FULL = {
    "W1": lambda tasks=200: workloads.sinusoids(tasks=tasks)._replace(repeats=50),
    "W2": lambda tasks=8: workloads.images(tasks=tasks)._replace(repeats=10),
}
TINY = {
    "W1": lambda tasks=8: workloads.sinusoids(tasks=tasks, width=4)._replace(repeats=2),
    "W2": lambda tasks=8: workloads.images(tasks=tasks, width=4, size=16, queries=2)._replace(
        repeats=2
    ),
}
ON_EACH = {"W1": 50, "W2": 2}
"""Tasks on each device where scaling is weak."""

AT_ONCE = {"W1": 25, "W2": 1}
"""Tasks at once: the same on every device, or their sums would be rounded differently."""

FIT_STEPS = 50
FIT_TASKS = 24


def start_jax(devices, processes, process, port):
    """Gives this process so many devices, and connects it with the others."""
    jax.config.update("jax_num_cpu_devices", devices)
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)


def build(workload, tasks_at_once, devices, processes, process, port):
    """A step, in a process of its own.

    The facts are the gradient in float32 and in float64, and the cost of the step in float32.
    """
    import jax_maml

    start_jax(devices, processes, process, port)
    options = {"tasks_at_once": tasks_at_once, "devices": devices * processes}
    jax.config.update("jax_enable_x64", True)
    _, exact_gradient, _ = jax_maml.build(workloads.double(workload), **options)
    exact = exact_gradient()
    jax.config.update("jax_enable_x64", False)
    step, gradient, cost = jax_maml.build(workload, **options)
    return step, {"gradient": gradient(), "exact": exact, "cost": cost}


def build_fit(folder, devices, processes, process, port):
    """A run of `fit` in float64, in a process of its own. The facts are how it ended."""
    import jax_maml

    start_jax(devices, processes, process, port)
    jax.config.update("jax_enable_x64", True)
    workload = workloads.double(workloads.sinusoids(tasks=FIT_TASKS, width=8))
    outer, params = jax_maml.make_outer(workload, None, False, 1)

    def task_loss(params, task, key):
        """Not finite for tasks that begin above 3, which are skipped."""
        value, metrics = outer.task_loss(params, task, key)
        return jnp.where(task.query.y[0, 0] > 3, jnp.nan, value), metrics

    outer = mj.outer_loop(task_loss, outer.optimizer, tasks_at_once=1)
    waves = mj.data.sinusoids(shots=5, queries=5)
    tests = mj.data.meta_batch(waves, 10)((), jax.random.key(1))
    mesh = jax.make_mesh((devices * processes,), ("tasks",))
    state, records = mj.training.fit(
        outer,
        outer.init(params),
        mj.data.meta_batch(waves, FIT_TASKS),
        (),
        jax.random.key(0),
        steps=FIT_STEPS,
        every=10,
        fuse=5,
        evaluate=lambda params, key: mj.evaluate(task_loss, params, tests, key, mesh=mesh),
        log=folder / "log.jsonl",
        checkpoint=folder / "checkpoints",
        progress=False,
        mesh=mesh,
    )
    skipped = sum(record["skipped"] for record in records)
    weights = [np.asarray(leaf) for leaf in jax.tree.leaves(state.params)]
    return lambda: 0.0, {"weights": weights, "skipped": skipped}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Run:
    """All processes of one configuration, each of which calls `build(...)`."""

    def __init__(self, build, arguments, devices, processes):
        port = free_port()
        arguments = (build, *arguments, devices, processes)
        self.processes = [harness.Process(*arguments, number, port) for number in range(processes)]
        self.facts = [process.facts() for process in self.processes]

    def seconds(self):
        """Seconds of the slowest process."""
        for process in self.processes:
            process.tell()
        return max(process.seconds() for process in self.processes)

    def close(self):
        harness.close(*self.processes)


def compare(name, scaling, make, configurations):
    """Rows of one workload; gradients and times are compared with the first configuration."""
    most = max(devices * processes for devices, processes in configurations)
    runs = {}
    tasks = {}
    for one in configurations:
        total = one[0] * one[1]
        tasks[one] = make().tasks if scaling == "strong" else ON_EACH[name] * total
        workload = make(tasks[one])
        at_once = min(AT_ONCE[name], make().tasks // most)
        runs[one] = Run(build, (workload, at_once), *one)
    times = harness.in_turn(runs, make().repeats, Run.seconds)
    reference = runs[configurations[0]].facts[0]["exact"]
    rows = []
    for (devices, processes), run in runs.items():
        row = {
            "workload": name,
            "scaling": scaling,
            "tasks": tasks[devices, processes],
            "devices": devices * processes,
            "processes": processes,
        }
        row |= harness.median(times[devices, processes])
        row |= run.facts[0]["cost"]
        exact = [fact["exact"] for fact in run.facts]
        if scaling == "strong":
            row["gradient_error"] = farthest(exact, reference)
        row["rounding"] = farthest([fact["gradient"] for fact in run.facts], exact[0])
        first = rows[0] if rows else row
        row["ratio"] = row["seconds"] / row["tasks"] / (first["seconds"] / first["tasks"])
        report(row)
        rows.append(row)
        run.close()
    return rows


def compare_fits(configurations):
    """Rows of `fit`: how far its end is from that of the first configuration, and its log."""
    rows = []
    reference = None
    for devices, processes in configurations:
        with tempfile.TemporaryDirectory() as folder:
            run = Run(build_fit, (pathlib.Path(folder),), devices, processes)
            run.close()
            logged = len((pathlib.Path(folder) / "log.jsonl").read_text().splitlines())
        reference = reference or run.facts[0]["weights"]
        differences = [
            np.abs(one - other).max()
            for fact in run.facts
            for one, other in zip(fact["weights"], reference, strict=True)
        ]
        row = {
            "devices": devices * processes,
            "processes": processes,
            "difference": float(max(differences)),
            "skipped": run.facts[0]["skipped"],
            "logged": logged,
        }
        print(row, flush=True)
        rows.append(row)
    return rows


def farthest(gradients, reference):
    """The largest difference of the gradients of all processes from a reference."""
    return max(harness.difference(gradient, reference) for gradient in gradients)


def report(row):
    """Prints one row."""
    where = f"{row['workload']} {row['scaling']}, {row['devices']} devices"
    where += f" in {row['processes']} processes"
    took = f"{row['seconds']:.4g} s, {row['ratio']:.2f} of the first per task"
    tasks = f"{row['tasks_on_a_device']} tasks on each, {row['messages']}"
    print(f"{where}: {took}, {tasks}, rounding {row['rounding']:.0e}", flush=True)


def main(options):
    configurations = [(devices, 1) for devices in options.devices]
    configurations += [(1, processes) for processes in options.processes]
    sizes = TINY if options.tiny else FULL
    rows = []
    for name in options.workloads:
        if name in sizes:
            for scaling in ("strong", "weak"):
                rows += compare(name, scaling, sizes[name], configurations)
        else:
            print(f"There is no workload {name!r}; there are {', '.join(sizes)}.")
    fits = compare_fits(configurations)
    header = harness.header(("orbax-checkpoint",), seed=0, rows=rows, fits=fits, steps=FIT_STEPS)
    harness.save(options.out, "devices", header)


if __name__ == "__main__":
    main(parser.parse_args())
