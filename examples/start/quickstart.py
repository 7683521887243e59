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

# Two learners on the same net. MAML learns weights from which a few steps of descent name the
# letters of a task. ProtoNets learn features whose class means do.
net = mj.nets.Conv4(outputs=WAYS, width=32, rngs=nnx.Rngs(0))
learners = {
    "MAML": mj.algorithms.maml(net, inner_rate=0.5, inner_steps=3),
    "ProtoNets": mj.algorithms.protonets(net, WAYS),
}

# Train each on batches of tasks, and test it on tasks of new letters.
learned = {}
measured = {}
for name, learner in learners.items():
    print(f"{name}: {STEPS} steps of training on Latin letters")
    outer = mj.outer_loop(learner.task_loss, optax.adam(5e-3))
    state, _ = mj.training.fit(
        outer,
        outer.init(learner.params),
        mj.data.meta_batch(episodes, TASKS),
        train,
        jax.random.key(0),
        steps=STEPS,
        every=STEPS,
    )
    learned[name] = state.params
    scores = mj.evaluate(learner.task_loss, state.params, test_tasks, jax.random.key(2))
    measured[name] = scores["accuracy"]

print(f"\nGreek and Cyrillic letters named right, from {SHOTS} example of each of {WAYS}:")
print(f"  {'a guess':<12}{100 / WAYS:.1f} %")
for name, accuracy in measured.items():
    print(f"  {name:<12}{100 * accuracy.mean:.1f} ± {100 * accuracy.interval:.1f} %")
print(f"± is a 95 % interval over {TEST_TASKS} tasks. No net has seen these scripts before.\n")

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
mj.plots.task(axis, task, logits.argmax(axis=1), title="One letter of each, and the answers")
figure.savefig("quickstart.png", dpi=110)
print("See quickstart.png: a green frame is a right answer, a red one a wrong answer.")
