"""Letters of scripts that were never seen: two learners on the same tasks.

A task shows one example of each of five letters. The net reads them, and then names other drawings
of the same letters. It is trained on Latin letters and tested on Greek and Cyrillic ones. The
letters are those of the fonts inside matplotlib, so that no file is needed.

    python examples/start/quickstart.py
"""

import jax
import matplotlib.pyplot as plt
import optax
from flax import nnx

import metajax as mj

WAYS = 5  # classes of a task
SHOTS = 1  # support examples of each class
QUERIES = 7  # query examples of each class
TASKS = 8  # in an outer step
STEPS = 300  # outer steps
TEST_TASKS = 600

# Data: classes of disjoint scripts, and a sampler that draws tasks from them.
letters = mj.data.glyphs()
split = mj.data.split_scripts(letters, train=["Latin"], test=["Greek", "Cyrillic"])
train = mj.data.select_part(letters, split, "train")
test = mj.data.select_part(letters, split, "test")
episodes = mj.data.episodes(WAYS, SHOTS, QUERIES)
test_tasks = jax.jit(mj.data.meta_batch(episodes, TEST_TASKS))(test, jax.random.key(1))

# Two learners on the same net: MAML learns a start for descent, ProtoNets features for class means.
net = mj.nets.Conv4(outputs=WAYS, width=32, rngs=nnx.Rngs(0))
learners = {
    "MAML": mj.algorithms.maml(net, inner_rate=0.5, inner_steps=3),
    "ProtoNets": mj.algorithms.protonets(net, WAYS),
}

# Train each on batches of tasks, and test it on tasks of new letters.
learned = {}
for name, learner in learners.items():
    print(name)
    outer = mj.outer_loop(learner.task_loss, optax.adam(5e-3))
    state, _ = mj.training.fit(
        outer,
        outer.init(learner.params),
        mj.data.meta_batch(episodes, TASKS),
        train,
        jax.random.key(0),
        steps=STEPS,
        every=100,
    )
    learned[name] = state.params
    scores = mj.evaluate(learner.task_loss, state.params, test_tasks, jax.random.key(2))
    accuracy = scores["accuracy"]
    mean, half = 100 * accuracy.mean, 100 * accuracy.interval
    print(f"{name}: {mean:.1f} ± {half:.1f} % of {TEST_TASKS} tasks, 95 % interval\n")

# The picture: the support set of one task, its queries, and the answers of ProtoNets.
learner = learners["ProtoNets"]
task = jax.tree.map(lambda leaf: leaf[0], test_tasks)
logits = jax.jit(mj.predict, static_argnums=(0, 1))(
    learner.adaptation,
    learner.apply,
    learned["ProtoNets"],
    task.support,
    task.query.x,
    jax.random.key(3),
)
figure, axis = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
title = "One example of each letter, and the answers of ProtoNets"
mj.plots.task(axis, task, logits.argmax(axis=1), title=title)
figure.savefig("quickstart.png", dpi=110)
print("See quickstart.png.")
