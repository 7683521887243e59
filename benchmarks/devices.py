"""Workload W5: a step of W1 and W2 over 1, 2, 4 and 8 devices, and over 2 processes.

The devices are simulated on one CPU and share its cores: where steps are small two of them halve the time, where they
are not there is little to gain. What is shown is that results are equal (in float64; "rounding" is how far float32 is
off), that each device computes its own tasks only, and what dividing costs. Each configuration runs in processes of its
own, the runs are interleaved, and the number of tasks stays as it is: 200 of W1, 8 of W2. Writes
benchmarks/results/devices.json.

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
AT_ONCE = {
    "W1": 25,
    "W2": 1,
}  # the same on every device, or their sums would be rounded differently
TINY = {
    "W1": lambda: workloads.sinusoids(tasks=8, width=4)._replace(repeats=2),
    "W2": lambda: workloads.images(tasks=8, width=4, size=16, queries=2)._replace(repeats=2),
}


def build(workload, tasks_at_once, devices, processes, process, port):
    """In a process of its own, which sees `devices` devices of the CPU and talks to the others, if there are any."""
    import jax_maml

    jax.config.update("jax_enable_x64", workloads.is_double(workload))
    jax.config.update("jax_num_cpu_devices", devices)
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)
    step, gradient, cost = jax_maml.build(
        workload, tasks_at_once=tasks_at_once, devices=devices * processes
    )
    return step, {"gradient": gradient(), "cost": cost}


class Run:
    """All processes of one configuration."""

    def __init__(self, workload, tasks_at_once, devices, processes):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = (build, workload, tasks_at_once, devices, processes)
        self.processes = [harness.Process(*arguments, number, port) for number in range(processes)]
        self.facts = [process.facts() for process in self.processes]

    def seconds(self):
        """Of the slowest process."""
        for process in self.processes:
            process.tell()
        return max(process.seconds() for process in self.processes)

    def close(self):
        harness.close(*self.processes)


def compare(name, workload, configurations):
    """Rows of one workload; gradients and seconds are compared with the first configuration."""
    tasks_at_once = min(
        AT_ONCE[name],
        workload.tasks // max(devices * processes for devices, processes in configurations),
    )
    exact = {}
    for one in configurations:
        run = Run(workloads.double(workload), tasks_at_once, *one)
        exact[one] = [facts["gradient"] for facts in run.facts]
        run.close()
    runs = {one: Run(workload, tasks_at_once, *one) for one in configurations}
    for run in runs.values():
        run.seconds()
    times = {one: [] for one in runs}
    for _ in range(workload.repeats):
        for one, run in runs.items():
            times[one].append(run.seconds())
    rows = []
    reference = exact[configurations[0]][0]
    for (devices, processes), run in runs.items():
        row = {
            "workload": name,
            "tasks": workload.tasks,
            "devices": devices * processes,
            "processes": processes,
        }
        row |= harness.median(times[devices, processes]) | run.facts[0]["cost"]
        own = exact[devices, processes]
        row["gradient_error"] = max(harness.difference(gradient, reference) for gradient in own)
        row["rounding"] = max(harness.difference(facts["gradient"], own[0]) for facts in run.facts)
        row["ratio"] = row["seconds"] / (rows or [row])[0]["seconds"]
        print(
            f"{name}, {row['devices']} devices in {processes} processes: {row['seconds']:.4g} s, {row['ratio']:.2f} of "
            f"the first, {row['tasks_on_a_device']} tasks on each, gradient differs by {row['gradient_error']:.0e}",
            flush=True,
        )
        rows.append(row)
        run.close()
    return rows


if __name__ == "__main__":
    options = parser.parse_args()
    configurations = [(devices, 1) for devices in options.devices] + [
        (1, number) for number in options.processes
    ]
    rows = []
    sizes = TINY if options.tiny else FULL
    for name in options.workloads:
        if name in sizes:
            rows += compare(name, sizes[name](), configurations)
        else:
            print(f"There is no workload {name!r}; there are {', '.join(sizes)}.")
    harness.save(options.out, "devices", harness.header(seed=0, rows=rows))
