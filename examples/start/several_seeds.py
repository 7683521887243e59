"""Several seeds at once: five whole trainings in one program, and an interval that covers them.

An interval over the test tasks of one net says nothing about another training. A training run is a
pure function of its key, so that `vmap` makes it five runs.

    python examples/start/several_seeds.py
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from flax import nnx

import metajax as mj

SEEDS = 5
TASKS = 10  # in an outer step
STEPS = 2000  # outer steps
TEST_TASKS = 500

# Data: a task is one sine wave, of which five points are read.
waves = mj.data.sinusoids(shots=5, queries=10)
draw_tasks = mj.data.meta_batch(waves, TASKS)
test_tasks = mj.data.meta_batch(waves, TEST_TASKS)((), jax.random.key(1))


def make_learner(key):
    """MAML on a net whose weights are random."""
    net = mj.nets.MLP(1, (40, 40), 1, rngs=nnx.Rngs(key))
    return mj.algorithms.maml(net, loss=mj.losses.squared_error, inner_rate=0.01, inner_steps=1)


def train_and_test(key):
    """The loss of every step, and the squared error of every test task."""
    net_key, train_key = jax.random.split(key)
    learner = make_learner(net_key)
    outer = mj.outer_loop(learner.task_loss, optax.adam(1e-3))
    state = outer.init(learner.params)
    state, info = mj.training.scan(outer, state, draw_tasks, (), train_key, steps=STEPS)
    scores = mj.evaluate(learner.task_loss, state.params, test_tasks, key)
    return info.loss, scores["loss"].per_task


keys = jax.random.split(jax.random.key(0), SEEDS)
losses, errors = jax.jit(jax.vmap(train_and_test))(keys)

# One training, and its interval over test tasks; then all of them, and the interval over seeds.
one = mj.summarize(errors[0])
every = mj.summarize(errors.mean(axis=1))
for seed, error in enumerate(errors.mean(axis=1)):
    print(f"seed {seed}: squared error {error:.3f}")
print(f"The first seed alone: {one.mean:.3f} ± {one.interval:.3f} over its test tasks.")
print(f"All {SEEDS} seeds: {every.mean:.3f} ± {every.interval:.3f} over trainings.")
print("Report the second: it says what another training would reach.")

# The picture: the loss of each training, as the mean over a twentieth of the steps.
pieces = losses.reshape(SEEDS, 20, -1).mean(axis=2)
steps = (jnp.arange(20) + 0.5) * STEPS / 20
figure, axes = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
for seed, curve in enumerate(pieces):
    axes.plot(steps, curve, color="C0", alpha=0.4, label="each seed" if seed == 0 else None)
axes.plot(steps, pieces.mean(axis=0), color="C0", linewidth=2.5, label="their mean")
axes.set(xlabel="outer steps", ylabel="squared error after one inner step")
axes.set_title(f"{SEEDS} trainings of MAML in one program")
axes.legend(frameon=False)
figure.savefig("several_seeds.png", dpi=110)
print("See several_seeds.png.")
