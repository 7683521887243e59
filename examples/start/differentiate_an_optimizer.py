"""The gradient of an error through 200 steps of Adam finds the training points that are wrong.

A small net is fitted to 40 points, eight of which are wrong. Each point has a weight. The error on
a few clean points is a function of these weights, through all steps of Adam, and descent on that
function finds the wrong points.

    python examples/start/differentiate_an_optimizer.py
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import metajax as mj

STEPS = 200  # of Adam, which are differentiated
OUTER_STEPS = 40  # of descent on the weights of the points
WRONG = 8  # points

# Data: a sine wave. The first points of the training set have a wrong y.
x_key, wrong_key, net_key = jax.random.split(jax.random.key(0), 3)
x = jax.random.uniform(x_key, (40, 1), minval=-3, maxval=3)
y = jnp.sin(2 * x).at[:WRONG].add(2 * jax.random.rademacher(wrong_key, (WRONG, 1), float))
clean_x = jnp.linspace(-3, 3, 15)[:, None]
clean = mj.Batch(clean_x, jnp.sin(2 * clean_x))
# The net is plain JAX: 30 hidden units.
net_weights = {
    "in": 2 * jax.random.normal(net_key, (1, 30)),
    "shift": jnp.linspace(-6, 6, 30),
    "out": jnp.zeros((30, 1)),
}


def predict(weights, x):
    return jnp.tanh(x @ weights["in"] + weights["shift"][None]) @ weights["out"]


def weighted_error(params, batch, key):
    """What Adam descends: the squared error, with a weight from 0 to 1 for each point."""
    errors = (predict(params.fast, batch.x) - batch.y) ** 2
    return (jax.nn.sigmoid(params.slow)[:, None] * errors).mean(), {}


adam = optax.adam(0.03, eps_root=1e-8)
fit = mj.inner_loop(weighted_error, adam, steps=STEPS, differentiate=mj.mixed_mode())


def clean_error(logits):
    """The error on the clean points, after all steps of Adam on the weighted ones."""
    params = fit.adapt(mj.Params(net_weights, logits), mj.Batch(x, y), jax.random.key(1))
    return ((predict(params.fast, clean.x) - clean.y) ** 2).mean()


# Descent on the weights of the points: each step differentiates a whole training.
logits = jnp.zeros(40)
outer = optax.adam(0.3)
state = outer.init(logits)
value_and_grad = jax.jit(jax.value_and_grad(clean_error))
errors = []
for _ in range(OUTER_STEPS):
    error, gradient = value_and_grad(logits)
    errors.append(error)
    updates, state = outer.update(gradient, state)
    logits = optax.apply_updates(logits, updates)
weights = jax.nn.sigmoid(logits)
found = int((jnp.argsort(weights)[:WRONG] < WRONG).sum())
print(f"Error on clean points: {errors[0]:.3f} with equal weights, {errors[-1]:.3f} with learned.")
print(f"{found} of the {WRONG} points with the least weights are wrong points.")

# The picture: the points, darker the more they count.
figure, axes = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
drawn = axes.scatter(x, y, c=weights, cmap="viridis_r", vmin=0, vmax=1)
axes.plot(x[:WRONG], y[:WRONG], "o", color="C3", fillstyle="none", markersize=11, label="wrong")
axes.set(xlabel="x", ylabel="y", title=f"Weights, learned through {STEPS} steps of Adam")
axes.legend(loc="upper right")
figure.colorbar(drawn, label="learned weight")
figure.savefig("differentiate_an_optimizer.png", dpi=110)
print("See differentiate_an_optimizer.png.")
