"""Workload W5: steps over 1, 2, 4 and 8 devices and over several processes, and `fit` on them.

The devices are simulated on one CPU and share its cores: more of them than there are cores only
show what dividing costs. "Strong" divides the same tasks, "weak" gives each device as many as one
has alone. W3 is a smaller transformer than in memory.py, whose params are also divided over two
devices each ("parts"). Gradients in float64 are compared ("rounding" is how far float32 is off),
and the number of tasks on a device and the messages between devices are read off the compiled
program. Each layout runs in processes of its own, and the runs are interleaved.

On paper, many GPUs: the measured time of a step on one device, scaled by the peaks of this CPU and
of a GPU, and the bytes of the gradient over published bandwidths, with the assumptions of GPU.

Then `training.fit` takes 50 steps on each layout, with evaluation, checkpoints, a log and tasks
that are skipped, and its end is compared with that of one device; and it takes steps of W2 on
images that are read from a file as it goes. Writes benchmarks/results/devices.json.

python benchmarks/devices.py
python benchmarks/devices.py --tiny --out /tmp/results    # to see that it runs
"""

import argparse
import functools
import math
import pathlib
import socket
import tempfile
from typing import NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
import workloads
from flax import nnx

import metajax as mj

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--workloads", nargs="+", default=["W1", "W2", "W3"])
parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8])
parser.add_argument("--processes", type=int, nargs="*", default=[2, 4])
parser.add_argument("--fits", choices=["yes", "no"], default="yes", help="whether to run fit, too")
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


class Layout(NamedTuple):
    """Where a step runs.

    Attributes:
        devices: simulated devices of each process.
        processes: how many there are.
        parts: devices that the params of each task are divided over.
    """

    devices: int
    processes: int = 1
    parts: int = 1


class Size(NamedTuple):
    """How large a workload is.

    Attributes:
        make: number of tasks -> what `build` gets, without JAX.
        tasks: where scaling is strong.
        on_each: tasks on each device where scaling is weak.
        at_once: tasks at once: the same on every device, or their sums would be rounded
            differently.
        repeats: timed steps.
    """

    make: object
    tasks: int
    on_each: int
    at_once: int
    repeats: int


class Transformer(NamedTuple):
    """W3: the number of tasks, and sizes of `memory.py`."""

    tasks: int
    sizes: dict


def sinusoids(tasks, **options):
    return workloads.sinusoids(tasks=tasks, **options)


def images(tasks, **options):
    return workloads.images(tasks=tasks, **options)


def texts(tasks, **sizes):
    return Transformer(tasks, sizes)


FULL = {
    "W1": Size(sinusoids, 200, 50, 25, 50),
    "W2": Size(images, 8, 2, 1, 10),
    "W3": Size(functools.partial(texts, length=64, layers=4), 8, 1, 1, 3),
}
TINY = {
    "W1": Size(functools.partial(sinusoids, width=4), 8, 4, 2, 2),
    "W2": Size(functools.partial(images, width=4, size=16, queries=2), 8, 2, 1, 2),
    "W3": Size(
        functools.partial(texts, layers=2, width=16, length=8, heads=2, tokens=8, steps=2),
        8,
        1,
        1,
        2,
    ),
}

GPU = {
    "name": "H100 SXM",
    "flops": 67e12,  # of float32 a second: NVIDIA's data sheet of the H100
    "inside": 450e9,  # bytes a second and direction of NVLink, up to 8 GPUs: the same data sheet
    "between": 50e9,  # of one 400 Gb/s InfiniBand port for each GPU: NVIDIA's DGX H100 data sheet
    "latency": 10e-6,  # seconds of a message, assumed
}
"""Assumed besides: the GPU reaches the share of its peak that this CPU reaches; nothing overlaps; a
sum takes two passes over the bytes and 2 log2(n) messages one after the other, as in a tree."""

FIT_STEPS = 50
FIT_TASKS = 24


def start_jax(layout, process, port):
    """Gives this process its devices, and connects it with the others."""
    jax.config.update("jax_num_cpu_devices", layout.devices)
    if layout.processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", layout.processes, process)


def build(workload, tasks_at_once, is_exact, layout, process, port):
    """A step, in a process of its own.

    The facts are the cost of the step in float32, its gradient, and where `is_exact` that in
    float64.
    """
    start_jax(layout, process, port)
    options = {"devices": layout.devices * layout.processes, "parts": layout.parts}
    facts = {}
    if is_exact:
        jax.config.update("jax_enable_x64", True)
        _, gradient, _ = build_step(workload, tasks_at_once, np.float64, options)
        facts["exact"] = gradient()
        jax.config.update("jax_enable_x64", False)
    step, gradient, facts["cost"] = build_step(workload, tasks_at_once, np.float32, options)
    return step, facts | {"gradient": gradient()}


def build_step(workload, tasks_at_once, dtype, options):
    """(step, gradient, cost) of a workload in a type of numbers."""
    import jax_maml

    if isinstance(workload, Transformer):
        outer, params, tasks = build_transformer(workload, tasks_at_once, dtype)
    else:
        workload = workloads.double(workload) if dtype == np.float64 else workload
        outer, params = jax_maml.make_outer(workload, None, False, tasks_at_once)
        tasks = jax_maml.make_tasks(workload)
    return jax_maml.build_step(outer, params, tasks, **options)


def build_transformer(workload, tasks_at_once, dtype):
    """(outer loop, params, tasks) of W3: MAML on a transformer, with Adam inside."""
    import memory

    sizes = memory.Sizes(**workload.sizes)
    loss = memory.next_token_loss(sizes, block_remat=True, weighted=False)
    adam = optax.adam(1e-3, eps_root=1e-8)
    adaptation = mj.inner_loop(loss, adam, steps=sizes.steps, differentiate=mj.mixed_mode())
    outer = mj.outer_loop(
        mj.query_loss(adaptation, loss), optax.adam(1e-3), tasks_at_once=tasks_at_once
    )
    with jax.enable_x64(False):  # or other numbers would be drawn
        start = memory.start(sizes)
    start = jax.tree.map(lambda leaf: leaf.astype(dtype), start)
    shape = (2, workload.tasks, sizes.batch, sizes.length + 1)
    rows = np.random.default_rng(0).integers(0, sizes.tokens, shape, dtype=np.int32)
    support, query = (mj.Batch(part[..., :-1], part[..., 1:]) for part in jnp.asarray(rows))
    return outer, mj.Params(start, {}), mj.Task(support, query)


def build_fit(folder, layout, process, port):
    """A run of `fit` in float64, in a process of its own. The facts are how it ended."""
    import jax_maml

    start_jax(layout, process, port)
    jax.config.update("jax_enable_x64", True)
    workload = workloads.double(workloads.sinusoids(tasks=FIT_TASKS, width=8))
    maml, params = jax_maml.make_outer(workload, None, False, 1)

    def task_loss(params, task, key):
        """Not finite for tasks that begin above 3, which are skipped."""
        value, metrics = maml.task_loss(params, task, key)
        return jnp.where(task.query.y[0, 0] > 3, jnp.nan, value), metrics

    outer = mj.outer_loop(task_loss, maml.optimizer, tasks_at_once=1)
    waves = mj.data.sinusoids(shots=5, queries=5)
    tests = mj.data.meta_batch(waves, 10)((), jax.random.key(1))
    mesh = jax.make_mesh((jax.device_count(),), ("tasks",))
    state, records = mj.training.fit(
        outer,
        outer.init(params),
        mj.data.meta_batch(waves, FIT_TASKS),
        (),
        jax.random.key(0),
        steps=FIT_STEPS,
        every=10,
        fuse=5,
        evaluate=lambda params, key: mj.evaluate(maml.task_loss, params, tests, key, mesh=mesh),
        log=folder / "log.jsonl",
        checkpoint=folder / "checkpoints",
        progress=False,
        mesh=mesh,
    )
    skipped = sum(record["skipped"] for record in records)
    weights = [np.asarray(leaf) for leaf in jax.tree.leaves(state.params)]
    return lambda: 0.0, {"weights": weights, "skipped": skipped}


def build_stream(folder, is_streamed, is_tiny, layout, process, port):
    """A run of `fit` on images, in a process of its own. The facts are the seconds of a step."""
    start_jax(layout, process, port)
    width, steps = (4, 2) if is_tiny else (64, 10)
    images = np.load(folder / "images.npy", mmap_mode="r")
    labels = np.repeat(np.arange(len(images) // 20), 20)
    net = mj.nets.Conv4(5, width=width, pool=True, rngs=nnx.Rngs(0))
    learner = mj.algorithms.maml(net, inner_rate=0.1, inner_steps=5)
    outer = mj.outer_loop(learner.task_loss, optax.adam(1e-3), tasks_at_once=1)
    sample = mj.data.meta_batch(mj.data.episodes(5, 1, 15), 8)
    if is_streamed:
        rows = mj.data.dataset(np.arange(len(images), dtype=np.int32), labels)
        source = mj.data.stream(sample, rows, lambda numbers: images[numbers], scale=255), ()
    else:
        source = sample, mj.data.dataset(jnp.asarray(images), labels, scale=255)
    mesh = jax.make_mesh((jax.device_count(),), ("tasks",))
    start = outer.init(learner.params)
    run = functools.partial(mj.training.fit, outer, start, *source, jax.random.key(0), mesh=mesh)
    _, records = run(steps=2 * steps, every=steps, progress=False)
    seconds = (records[1]["seconds"] - records[0]["seconds"]) / steps
    return lambda: 0.0, {"seconds": seconds, "loss": records[1]["loss"]}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Run:
    """All processes of one layout, each of which calls `build(...)`."""

    def __init__(self, build, arguments, layout):
        port = free_port()
        arguments = (build, *arguments, layout)
        numbers = range(layout.processes)
        self.processes = [harness.Process(*arguments, number, port) for number in numbers]
        self.facts = [process.facts() for process in self.processes]

    def seconds(self):
        """Seconds of the slowest process."""
        for process in self.processes:
            process.tell()
        return max(process.seconds() for process in self.processes)

    def close(self):
        harness.close(*self.processes)


def compare(name, scaling, size, layouts):
    """Rows of one workload; gradients and times are compared with the first layout."""
    runs = {}
    tasks = {}
    for layout in layouts:
        total = layout.devices * layout.processes // layout.parts
        tasks[layout] = size.tasks if scaling == "strong" else size.on_each * total
        workload = size.make(tasks[layout])
        runs[layout] = Run(build, (workload, size.at_once, scaling == "strong"), layout)
    times = harness.in_turn(runs, size.repeats, Run.seconds)
    rows = []
    for layout, run in runs.items():
        row = {"workload": name, "scaling": scaling, "tasks": tasks[layout], **layout._asdict()}
        row["devices"] = layout.devices * layout.processes
        row |= harness.median(times[layout])
        row |= run.facts[0]["cost"]
        row["gradient_bytes"] = sum(leaf.nbytes for leaf in run.facts[0]["gradient"].values())
        if scaling == "strong":
            exact = [fact["exact"] for fact in run.facts]
            row["gradient_error"] = farthest(exact, runs[layouts[0]].facts[0]["exact"])
            row["rounding"] = farthest([fact["gradient"] for fact in run.facts], exact[0])
        first = rows[0] if rows else row
        row["ratio"] = row["seconds"] / row["tasks"] / (first["seconds"] / first["tasks"])
        report(row)
        rows.append(row)
        run.close()
    return rows


def compare_fits(layouts):
    """Rows of `fit`: how far its end is from that of the first layout, and its log."""
    rows = []
    reference = None
    for layout in layouts:
        with tempfile.TemporaryDirectory() as folder:
            run = Run(build_fit, (pathlib.Path(folder),), layout)
            run.close()
            logged = len((pathlib.Path(folder) / "log.jsonl").read_text().splitlines())
        reference = reference or run.facts[0]["weights"]
        differences = [
            np.abs(one - other).max()
            for fact in run.facts
            for one, other in zip(fact["weights"], reference, strict=True)
        ]
        row = {
            "devices": layout.devices * layout.processes,
            "processes": layout.processes,
            "difference": float(max(differences)),
            "skipped": run.facts[0]["skipped"],
            "logged": logged,
        }
        print(row, flush=True)
        rows.append(row)
    return rows


def compare_streams(layouts, is_tiny):
    """Rows of `fit` on images in memory and in a file."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        shape = (20 * (20 if is_tiny else 1000), 28, 28, 1)
        np.save(path / "images.npy", np.random.default_rng(0).integers(0, 256, shape, np.uint8))
        for layout in layouts:
            row = {"devices": layout.devices * layout.processes, "processes": layout.processes}
            for name, is_streamed in (("in memory", False), ("streamed", True)):
                run = Run(build_stream, (path, is_streamed, is_tiny), layout)
                run.close()
                row[name] = run.facts[0]
            print(row, flush=True)
            rows.append(row)
    return rows


def peak_of_cpu():
    """Operations a second of a product of large matrices on this machine, float32."""
    matrix = jnp.ones((2048, 2048), jnp.float32)
    product = jax.jit(lambda x: x @ x)
    jax.block_until_ready(product(matrix))
    return 2 * 2048**3 / min(harness.seconds(lambda: product(matrix)) for _ in range(10))


def on_paper(rows, peak):
    """Rows of what many GPUs would do, each with the tasks that one device has in `rows`."""
    found = []
    for row in rows:
        if row["devices"] > 1 or row["scaling"] != "strong":
            continue
        compute = row["seconds"] * peak / GPU["flops"]
        for number in (8, 64, 512):
            bandwidth = GPU["inside"] if number <= 8 else GPU["between"]
            hops = 2 * math.log2(number)
            message = 2 * row["gradient_bytes"] / bandwidth + hops * GPU["latency"]
            found.append(
                {
                    "workload": row["workload"],
                    "gpus": number,
                    "tasks_on_each": row["tasks"],
                    "compute_seconds": compute,
                    "message_seconds": message,
                    "efficiency": compute / (compute + message),
                }
            )
    return found


def farthest(gradients, reference):
    """The largest difference of the gradients of all processes from a reference."""
    return max(harness.difference(gradient, reference) for gradient in gradients)


def report(row):
    """Prints one row."""
    where = f"{row['workload']} {row['scaling']}, {row['devices']} devices"
    where += f" in {row['processes']} processes"
    took = f"{row['seconds']:.4g} s, {row['ratio']:.2f} of the first per task"
    tasks = f"{row['tasks_on_a_device']} tasks on each, {row['messages']}"
    print(f"{where}: {took}, {tasks}", flush=True)


def main(options):
    layouts = [Layout(devices) for devices in options.devices]
    layouts += [Layout(1, processes) for processes in options.processes]
    sizes = TINY if options.tiny else FULL
    rows = []
    for name in options.workloads:
        if name not in sizes:
            print(f"There is no workload {name!r}; there are {', '.join(sizes)}.")
            continue
        if name == "W3":  # it takes long to compile
            few = [one for one in layouts if one.devices * one.processes <= 2]
            in_parts = [Layout(2, parts=2), Layout(4, parts=2)]
            rows += compare(name, "strong", sizes[name], few + in_parts)
        else:
            rows += compare(name, "strong", sizes[name], layouts)
            rows += compare(name, "weak", sizes[name], layouts)
    report = {"rows": rows}
    if options.fits == "yes":
        report |= {"fits": compare_fits(layouts), "fit_steps": FIT_STEPS}
        few = [one for one in layouts if one.devices * one.processes <= 2]
        report["streams"] = compare_streams(few, options.tiny)
    peak = peak_of_cpu()
    report |= {"peak_of_cpu": peak, "gpu": GPU, "on_paper": on_paper(rows, peak)}
    packages = ("orbax-checkpoint", "grain")
    harness.save(options.out, "devices", harness.header(packages, seed=0, **report))


if __name__ == "__main__":
    main(parser.parse_args())
