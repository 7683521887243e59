"""MAML on sinusoids over all devices of all hosts. The scripts in this folder start it.

It goes on where it was stopped. If it is stopped before its last step, it exits with 75, which
tells a scheduler to start it again.

    python examples/cluster/train.py --folder run                  # the devices of this machine
    python examples/cluster/train.py --folder run --simulated 8    # eight of them on a CPU
    python examples/cluster/train.py --folder /shared/run --auto   # SLURM, TPUs: JAX finds hosts
    python examples/cluster/train.py --folder /shared/run --coordinator host0:1234 --processes 2 \
        --index 0                                                  # and 1 on the other host
"""

import argparse
import math
import pathlib
import sys

import jax
import optax
from flax import nnx

import metajax as mj

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: try again later

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--folder", type=pathlib.Path, required=True, help="one that all hosts see")
parser.add_argument("--steps", type=int, default=60_000)
parser.add_argument("--tasks", type=int, default=64, help="in an outer step, over all devices")
parser.add_argument("--simulated", type=int, help="devices to simulate on a CPU")
parser.add_argument("--auto", action="store_true", help="let JAX find the other hosts")
parser.add_argument("--coordinator", help="address:port of the first process")
parser.add_argument("--processes", type=int)
parser.add_argument("--index", type=int, help="of this process")


def join_hosts(options):
    """Connects this process with those of the other hosts, before JAX is used."""
    if options.simulated:
        jax.config.update("jax_num_cpu_devices", options.simulated)
    if options.auto:
        jax.distributed.initialize()
    elif options.coordinator:
        jax.distributed.initialize(options.coordinator, options.processes, options.index)


def main(options):
    """Trains to the last step, or until it is stopped; returns the exit code."""
    join_hosts(options)
    options.folder.mkdir(parents=True, exist_ok=True)
    net = mj.nets.MLP(1, (40, 40), 1, rngs=nnx.Rngs(0))
    learner = mj.algorithms.maml(net, loss=mj.losses.squared_error, inner_rate=0.01)
    outer = mj.outer_loop(learner.task_loss, optax.adam(1e-3))
    waves = mj.data.sinusoids(shots=10, queries=10)
    tests = mj.data.meta_batch(waves, tasks=500)((), jax.random.key(1))
    every = max(1, min(1000, options.steps))
    mesh = jax.make_mesh((jax.device_count(),), ("tasks",))

    def evaluate(params, key):
        return mj.evaluate(learner.task_loss, params, tests, key, mesh=mesh)

    state, records = mj.training.fit(
        outer,
        outer.init(learner.params),
        mj.data.meta_batch(waves, options.tasks),
        (),
        jax.random.key(0),
        steps=options.steps,
        every=every,
        fuse=math.gcd(10, every),
        evaluate=evaluate,
        checkpoint=options.folder / "checkpoints",
        log=options.folder / "log.jsonl",
        mesh=mesh,
    )
    if jax.process_index() == 0 and records:
        last = records[-1]
        print(f"step {last['step']}: error {last['evaluate/loss']:.3f} on {mesh.size} devices")
    # With keep_best, fit may return an earlier state: compare records[-1]["step"] then.
    return 0 if int(state.step) >= options.steps else STOPPED


if __name__ == "__main__":
    sys.exit(main(parser.parse_args()))
