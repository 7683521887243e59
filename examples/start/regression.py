"""Regression: MAML learns from many sine waves to fit a new one to ten of its points.

python examples/start/regression.py
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from flax import nnx

import metajax as mj

SHOTS = 10  # points that the net may read
QUERIES = 10  # points that it is judged by
TASKS = 25  # in an outer step
STEPS = 5000  # outer steps
TEST_TASKS = 500

net = mj.nets.MLP(1, (40, 40), 1, rngs=nnx.Rngs(0))
waves = mj.data.sinusoids(SHOTS, QUERIES)
test_tasks = mj.data.meta_batch(waves, TEST_TASKS)((), jax.random.key(1))


def learner_with(steps):
    """MAML with so many inner steps."""
    return mj.algorithms.maml(net, loss=mj.losses.squared_error, inner_rate=0.01, inner_steps=steps)


# Train with one inner step. The whole run is one pure function, so that it can be jitted.
learner = learner_with(steps=1)
outer = mj.outer_loop(learner.task_loss, optax.adam(1e-3))


@jax.jit
def train(key):
    state = outer.init(learner.params)
    return mj.training.scan(outer, state, mj.data.meta_batch(waves, TASKS), (), key, steps=STEPS)


state, _ = train(jax.random.key(0))

# Test with more inner steps than in training.
for steps in (0, 1, 5, 10):
    scores = mj.evaluate(learner_with(steps).task_loss, state.params, test_tasks, jax.random.key(2))
    loss = scores["loss"]
    print(f"{steps:2} inner steps: squared error {loss.mean:.3f} ± {loss.interval:.3f}")

# The picture: one wave, its support points, and what MAML predicts after 0, 1 and 10 steps.
task = jax.tree.map(lambda leaf: leaf[0], test_tasks)
x = jnp.linspace(-5, 5, 200)[:, None]
figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
for steps, style in ((0, ":"), (1, "--"), (10, "-")):
    fitted = learner_with(steps)
    y = mj.predict(
        fitted.adaptation, fitted.apply, state.params, task.support, x, jax.random.key(3)
    )
    axis.plot(x, y, style, color="C3", label=f"MAML, {steps} inner steps")
axis.plot(task.support.x, task.support.y, "ko", label="support")
axis.plot(task.query.x, task.query.y, "o", color="0.6", label="query")
axis.set(xlabel="x", ylabel="y")
axis.legend(frameon=False, fontsize=8)
figure.savefig("regression.png", dpi=100)
print("See regression.png.")
