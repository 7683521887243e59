"""Your own table: numbers and texts, some cells empty, and classes from three lines of each.

Nothing is trained: a class is the mean of its lines, for numbers and for texts apart, and what a
line lacks is left out. Put the path of your own file in the place of the one written here.

    python examples/start/own_table.py
"""

import pathlib
import tempfile

import jax
import matplotlib.pyplot as plt
import numpy as np

import metajax as mj

WAYS = 5  # classes of a task
SHOTS = 3  # lines of each class that are read
QUERIES = 5  # lines of each class to name
TEST_TASKS = 500
WORDS = ("red", "green", "sweet", "sour", "round", "long", "soft", "hard", "small", "large")

# A table of fruits. Of every three lines, one lacks its numbers and one its text.
rng = np.random.default_rng(0)
lines = ["fruit,weight,length,description"]
for fruit in range(20):
    weight, length = rng.normal(size=2)
    words = rng.choice(WORDS, 3, replace=False)
    for line in range(12):
        numbers = f"{weight + rng.normal(scale=0.4):.2f},{length + rng.normal(scale=0.4):.2f}"
        text = " ".join(rng.choice(words, 2, replace=False))
        numbers = "," if line % 3 == 1 else numbers
        text = "" if line % 3 == 2 else text
        lines.append(f"fruit {fruit},{numbers},{text}")
print("\n".join(lines[:4]))


def count_words(texts):
    """A number for each word of the list: float32[texts, words]. Use an encoder of your own."""
    return np.array([[word in text.split() for word in WORDS] for text in texts], np.float32)


# The data set: two modalities, and for each line whether it has them.
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "fruits.csv")
    path.write_text("\n".join(lines))
    fruits = mj.data.table(
        path,
        label="fruit",
        numbers=["weight", "length"],
        texts={"description": count_words},
    )
print(f"{fruits.classes} classes of {len(fruits.y)} lines; empty cells are known to be absent.")

# Class means of each modality; a query is compared by those that it has.
encoder = mj.nets.identity_encoder
loss = mj.losses.cross_entropy(mj.modalities.late_head(encoder))
task_loss = mj.query_loss(mj.modalities.modal_prototypes(encoder, WAYS), loss)
episodes = mj.data.episodes(WAYS, SHOTS, QUERIES)
tasks = mj.data.meta_batch(episodes, TEST_TASKS)(fruits, jax.random.key(0))

measured = {}
for names in (["numbers"], ["description"], ["numbers", "description"]):
    support = tasks.support._replace(x=mj.modalities.restrict(tasks.support.x, names))
    query = tasks.query._replace(x=mj.modalities.restrict(tasks.query.x, names))
    params = mj.Params({}, ())
    scores = mj.evaluate(task_loss, params, mj.Task(support, query), jax.random.key(1))
    accuracy = scores["accuracy"]
    measured[" and ".join(names)] = accuracy.mean, accuracy.interval
    print(f"by {' and '.join(names)}: {100 * accuracy.mean:.1f} ± {100 * accuracy.interval:.1f} %")
print(f"So many lines are named right among {WAYS} fruits; a guess is right in {100 / WAYS:.0f} %.")

figure, axes = plt.subplots(figsize=(6.5, 2.6), layout="constrained")
mj.plots.accuracies(axes, {"": measured}, chance=1 / WAYS, title="Fruits from three lines of each")
figure.savefig("own_table.png", dpi=110)
print("See own_table.png.")
