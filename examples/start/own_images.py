"""Your own images: from arrays to a net that is trained, saved, read again and that names images.

The arrays are scikit-learn's handwritten digits. Put your own in their place: images
[number, height, width, channels], and the name of the class of each.

    python examples/start/own_images.py
"""

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import metajax as mj

WAYS = 4  # classes of a task
SHOTS = 1  # images of each class that are read
QUERIES = 5  # images of each class to name
STEPS = 200  # outer steps
TEST_TASKS = 300

# Data: six digits to learn from, and four that the net never sees in training.
digits = load_digits()
images = digits.images[..., None].repeat(4, axis=1).repeat(4, axis=2)  # [1797, 32, 32, 1]
names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
labels = np.array(names)[digits.target]
mine = mj.data.dataset(images.astype(np.uint8), labels, scale=16)
split = mj.data.class_split("digits", {"train": names[:6], "test": names[6:]})
train = mj.data.select_part(mine, split, "train")
test = mj.data.select_part(mine, split, "test")

# A learner, and training on tasks of the six digits. Each block of Conv4 has `width` channels, and
# an image as many features. `outputs` is the width of its head, which ProtoNets write anew.
net = mj.nets.Conv4(outputs=WAYS, width=16, rngs=nnx.Rngs(0))
learner = mj.algorithms.protonets(net, WAYS)
episodes = mj.data.episodes(WAYS, SHOTS, QUERIES)
outer = mj.outer_loop(learner.task_loss, optax.adam(5e-3))
state, _ = mj.training.fit(
    outer,
    outer.init(learner.params),
    mj.data.meta_batch(episodes, 4),
    train,
    jax.random.key(0),
    steps=STEPS,
    every=100,
)

# Saved, and read again: in another process, make the learner in the same way.
mj.save("own_images.npz", state.params)
params = mj.load("own_images.npz", like=learner.params)

# The test, on tasks of the four digits that were held out.
tasks = jax.jit(mj.data.meta_batch(episodes, TEST_TASKS))(test, jax.random.key(1))
accuracy = mj.evaluate(learner.task_loss, params, tasks, jax.random.key(2))["accuracy"]
mean, half = 100 * accuracy.mean, 100 * accuracy.interval
print(f"{mean:.1f} ± {half:.1f} % of the images are named right, from one example of each of the")
print(f"{WAYS} digits, none of which was in training. A guess is right in {100 / WAYS:.0f} %.")

# New images: one support image of each class, and the names of others.
task = jax.tree.map(lambda leaf: leaf[0], tasks)
logits = jax.jit(mj.predict, static_argnums=(0, 1))(
    learner.adaptation, learner.apply, params, task.support, task.query.x, jax.random.key(3)
)
figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
mj.plots.task(axes, task, logits.argmax(axis=1), title="One example of each, and the answers")
figure.savefig("own_images.png", dpi=110)
print("See own_images.png.")
