"""What is printed most is a line that a person reads, also of traced values and of other trees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import metajax as mj
from metajax import data

SUMMARY = mj.Summary(jnp.asarray(0.82345), jnp.asarray(0.0061), jnp.zeros(600))
LETTERS = data.dataset(
    np.zeros((12, 8, 8, 1), np.uint8),
    np.repeat(np.arange(4), [3, 3, 2, 4]),
    names=["Greek/alpha", "Greek/beta", "Latin/a", "Latin/b"],
    scale=255,
)
SPLIT = data.class_split("Latin is new", {"test": LETTERS.names[2:], "train": LETTERS.names[:2]})
LEARNER = mj.algorithms.maml(mj.nets.MLP(2, (4,), 5, rngs=nnx.Rngs(0)), inner_rate=0.1)
PRINTED = {
    "summary": (SUMMARY, "0.8235 ± 0.0061 (n = 600)"),
    "dataset": (
        LETTERS,
        "Dataset(12 examples of 4 classes, 2 to 4 each: Greek/alpha, Greek/beta, Latin/a, ...; "
        "x: uint8[12, 8, 8, 1]; scale: 255.0)",
    ),
    "split": (
        SPLIT,
        f"Split('Latin is new'; classes: test 2, train 2; digest {SPLIT.digest})",
    ),
    "learner": (
        LEARNER,
        "Learner(adaptation: inner_loop; task loss: query_loss; numbers in params: 37 fast, "
        "0 slow, 0 rule)",
    ),
}


@pytest.mark.parametrize("name", PRINTED)
def test_a_person_reads_one_line(name):
    value, line = PRINTED[name]
    assert str(value) == repr(value) == line
    assert str({"here": value}) == f"{{'here': {line}}}"


@pytest.mark.parametrize("name", PRINTED)
def test_what_is_printed_stays_a_tree_of_the_same_type(name):
    value, _ = PRINTED[name]
    leaves, structure = jax.tree.flatten(value)
    again = jax.tree.unflatten(structure, leaves)
    assert type(again) is type(value) and jax.tree.leaves(again) == leaves
    assert repr(again) == repr(value)
    strange = jax.tree.unflatten(structure, [object() for _ in leaves])
    assert "\n" not in repr(strange)


def test_traced_values_are_printed():
    seen = []

    def print_all(summary, source, params):
        seen.extend([repr(summary), repr(source), repr(LEARNER._replace(params=params))])
        return summary.mean

    jax.jit(print_all)(SUMMARY, LETTERS, LEARNER.params)
    assert seen[0].startswith("Summary(JitTracer") or "Traced" in seen[0]
    assert seen[1] == repr(LETTERS) and seen[2] == repr(LEARNER)


def test_summaries_of_several_numbers_and_seeds():
    several = mj.summarize(jnp.array([[0.0, 1.0, 0.25], [1.0, 1.0, 0.25]]))
    assert str(several) == "[0.5 1 0.25] ± [6.4 0 0] (n = 2)"
    seeds = jax.vmap(mj.summarize)(jnp.array([[0.0, 1.0], [1.0, 1.0], [0.5, 0.5]]))
    assert str(seeds) == "[0.5 1 0.5] ± [6.4 0 0] (n = 2)"
    assert str(mj.summarize(jnp.ones(1))) == "1 ± nan (n = 1)"
    assert "\n" not in str(mj.summarize(jnp.ones((2, 3, 20))))


def test_a_learner_of_other_things_is_printed_as_a_tuple():
    axes = mj.Learner(None, 0, None, None)
    assert repr(axes) == "Learner(None, 0, None, None)"


def test_modalities_are_printed_by_name():
    x = data.as_modalities(
        {"image": np.ones((2, 4)), "wave": mj.Series(np.ones((2, 3, 1)), np.array([3, 2]))}
    )
    assert "x: {image: float64[2, 4], wave: Series(value=float64[2, 3, 1]" in repr(
        data.dataset(x, ["a", "b"])
    )
