"""Workload W5: a step of W1 and W2 over 1, 2, 4 and 8 devices, and over 2 processes.

The devices are simulated on one CPU and share its cores. Where steps are small two of them halve
the time, elsewhere there is little to gain. The benchmark shows that results are equal (in float64;
"rounding" is how far float32 is off), that each device computes its own tasks only, and what
dividing costs. Each configuration runs in processes of its own, the runs are interleaved, and the
number of tasks stays as it is: 200 of W1, 8 of W2. Writes benchmarks/results/devices.json.

python benchmarks/devices.py
python benchmarks/devices.py --tiny --out /tmp/results    # to see that it runs
"""

import argparse
import pathlib
import socket

import harness
import jax
import workloads

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--workloads", nargs="+", default=["W1", "W2"])
parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
parser.add_argument("--processes", type=int, nargs="*", default=[2])
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)

FULL = {
    "W1": lambda: workloads.sinusoids(tasks=200)._replace(repeats=50),
    "W2": lambda: workloads.images()._replace(repeats=10),
}
TINY = {
    "W1": lambda: workloads.sinusoids(tasks=8, width=4)._replace(repeats=2),
    "W2": lambda: workloads.images(tasks=8, width=4, size=16, queries=2)._replace(repeats=2),
}
AT_ONCE = {"W1": 25, "W2": 1}
"""Tasks at once: the same on every device, or their sums would be rounded differently."""


def build(workload, tasks_at_once, devices, processes, process, port):
    """In a process of its own, which sees `devices` devices and talks to any other processes.

    The facts are the gradient in float32 and in float64, and the cost of the step in float32.
    """
    import jax_maml

    jax.config.update("jax_num_cpu_devices", devices)
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)
    options = {"tasks_at_once": tasks_at_once, "devices": devices * processes}
    jax.config.update("jax_enable_x64", True)
    _, exact_gradient, _ = jax_maml.build(workloads.double(workload), **options)
    exact = exact_gradient()
    jax.config.update("jax_enable_x64", False)
    step, gradient, cost = jax_maml.build(workload, **options)
    return step, {"gradient": gradient(), "exact": exact, "cost": cost}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Run:
    """All processes of one configuration."""

    def __init__(self, workload, tasks_at_once, devices, processes):
        port = free_port()
        arguments = (build, workload, tasks_at_once, devices, processes)
        self.processes = [harness.Process(*arguments, number, port) for number in range(processes)]
        facts = [process.facts() for process in self.processes]
        self.gradients = [one["gradient"] for one in facts]
        self.exact = [one["exact"] for one in facts]
        self.cost = facts[0]["cost"]

    def seconds(self):
        """Seconds of the slowest process."""
        for process in self.processes:
            process.tell()
        return max(process.seconds() for process in self.processes)

    def close(self):
        harness.close(*self.processes)


def compare(name, workload, configurations):
    """Rows of one workload; gradients and seconds are compared with the first configuration."""
    most = max(devices * processes for devices, processes in configurations)
    tasks_at_once = min(AT_ONCE[name], workload.tasks // most)
    runs = {one: Run(workload, tasks_at_once, *one) for one in configurations}
    times = harness.in_turn(runs, workload.repeats, Run.seconds)
    reference = runs[configurations[0]].exact[0]
    rows = []
    for (devices, processes), run in runs.items():
        row = {
            "workload": name,
            "tasks": workload.tasks,
            "devices": devices * processes,
            "processes": processes,
        }
        row |= harness.median(times[devices, processes])
        row |= run.cost
        row["gradient_error"] = farthest(run.exact, reference)
        row["rounding"] = farthest(run.gradients, run.exact[0])
        first = rows[0] if rows else row
        row["ratio"] = row["seconds"] / first["seconds"]
        report(row)
        rows.append(row)
        run.close()
    return rows


def farthest(gradients, reference):
    """The largest difference of the gradients of all processes from a reference."""
    return max(harness.difference(gradient, reference) for gradient in gradients)


def report(row):
    """Prints one row."""
    where = f"{row['workload']}, {row['devices']} devices in {row['processes']} processes"
    took = f"{row['seconds']:.4g} s, {row['ratio']:.2f} of the first"
    tasks = f"{row['tasks_on_a_device']} tasks on each"
    error = f"gradient differs by {row['gradient_error']:.0e}"
    print(f"{where}: {took}, {tasks}, {error}", flush=True)


def main(options):
    configurations = [(devices, 1) for devices in options.devices]
    configurations += [(1, processes) for processes in options.processes]
    sizes = TINY if options.tiny else FULL
    rows = []
    for name in options.workloads:
        if name in sizes:
            rows += compare(name, sizes[name](), configurations)
        else:
            print(f"There is no workload {name!r}; there are {', '.join(sizes)}.")
    harness.save(options.out, "devices", harness.header(seed=0, rows=rows))


if __name__ == "__main__":
    main(parser.parse_args())
