"""Regression: MAML learns from many sine waves to fit a new one to ten of its points.

python examples/start/sinusoid.py
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from flax import nnx

import metajax as mj

SHOTS = 10  # points of a wave that the net may read
QUERIES = 10  # points that its error is measured at
TASKS = 25  # in an outer step
STEPS = 5000  # outer steps
TEST_TASKS = 500

# Data: a task is one sine wave of random amplitude and phase.
waves = mj.data.sinusoids(SHOTS, QUERIES)
draw_tasks = mj.data.meta_batch(waves, TASKS)
test_tasks = mj.data.meta_batch(waves, TEST_TASKS)((), jax.random.key(1))

net = mj.nets.MLP(1, (40, 40), 1, rngs=nnx.Rngs(0))


def learner_with(steps):
    """MAML with so many inner steps."""
    return mj.algorithms.maml(net, loss=mj.losses.squared_error, inner_rate=0.01, inner_steps=steps)


# Train with one inner step. The whole run is one pure function, so that it can be jitted.
learner = learner_with(steps=1)
outer = mj.outer_loop(learner.task_loss, optax.adam(1e-3))


@jax.jit
def train(key):
    state = outer.init(learner.params)
    return mj.training.scan(outer, state, draw_tasks, (), key, steps=STEPS)


state, _ = train(jax.random.key(0))

# Test with more inner steps than in training.
errors = {}
for steps in (0, 1, 5, 10):
    scores = mj.evaluate(learner_with(steps).task_loss, state.params, test_tasks, jax.random.key(2))
    errors[steps] = scores["loss"].mean
    print(f"{steps:2} inner steps: {scores['loss'].mean:.3f} ± {scores['loss'].interval:.3f}")
print(f"This is the squared error on {TEST_TASKS} new waves, with a 95 % interval over them.")
print(f"One step on {SHOTS} points makes it {errors[0] / errors[1]:.1f} times smaller.")

# The picture: one wave, the points that were read, and the fit after 0, 1 and 10 steps.
task = jax.tree.map(lambda leaf: leaf[0], test_tasks)
x = jnp.linspace(-5, 5, 200)[:, None]
figure, axes = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
for steps, style in ((0, ":"), (1, "--"), (10, "-")):
    fitted = learner_with(steps)
    key = jax.random.key(3)
    y = mj.predict(fitted.adaptation, fitted.apply, state.params, task.support, x, key)
    axes.plot(x, y, style, color="C3", label=f"{steps} inner steps")
axes.plot(task.support.x, task.support.y, "ko", label="points that are read")
axes.plot(task.query.x, task.query.y, "o", color="0.6", label="other points")
axes.set(xlabel="x", ylabel="y", title="A new wave, fitted by MAML")
axes.legend(frameon=False, fontsize=8)
figure.savefig("sinusoid.png", dpi=110)
print("See sinusoid.png.")
