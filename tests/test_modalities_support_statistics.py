"""Statistics of a support set, against loops and limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.modalities.support_statistics import (
    STATISTICS,
    leave_one_out_scores,
    modality_statistics,
)

LABELS = np.array([0, 0, 0, 1, 1, 2])
CLASSES = jnp.asarray(np.eye(3)[LABELS])
HERE = jnp.ones(6, bool)
measure = jax.jit(modality_statistics)


def named(features, present=HERE, classes=CLASSES):
    return dict(zip(STATISTICS, measure(jnp.asarray(features), present, classes), strict=True))


def test_leave_one_out_scores_against_loops():
    x = np.random.default_rng(0).normal(size=(6, 2))
    scores = jax.jit(leave_one_out_scores)(jnp.asarray(x), CLASSES)
    for i in range(6):
        expected = np.full(3, np.nan)
        for k in range(3):
            rows = [j for j in range(6) if LABELS[j] == k and j != i]
            if rows:
                centre = x[rows].mean(axis=0)
                expected[k] = 2 * x[i] @ centre - centre @ centre
        expected = np.where(np.isnan(expected), np.nanmean(expected), expected)
        np.testing.assert_allclose(scores[i], expected, rtol=1e-12)


def test_well_and_badly_separated_classes():
    far, near = named(10 * np.eye(3)[LABELS] + 0.1), named(np.full((6, 3), 0.1))
    # The class of one example has no other example, so this example cannot be right.
    assert far["leave-one-out accuracy"] == pytest.approx(5 / 6)
    assert far["leave-one-out margin"] > near["leave-one-out margin"]
    assert far["separation"] == pytest.approx(np.log1p(200)) and near["separation"] == 0
    assert far["closest pair"] == pytest.approx(np.log1p(200)) and near["closest pair"] == 0
    assert far["entropy"] < 0.2 and near["entropy"] == pytest.approx(1)
    assert far["coverage"] == near["coverage"] == 1


def test_coverage_and_what_is_absent():
    x = np.random.default_rng(0).normal(size=(6, 2))
    present = jnp.asarray(LABELS != 2)
    part = named(x, present)
    assert part["coverage"] == pytest.approx(2 / 3)
    spoiled = np.where(LABELS[:, None] == 2, np.nan, x)
    assert part == named(spoiled, present)
    assert all(np.isfinite(value) for value in named(x, ~HERE).values())


def test_classes_without_support_have_no_influence():
    x = np.random.default_rng(0).normal(size=(6, 2))
    more = jnp.asarray(np.eye(5)[LABELS])
    np.testing.assert_allclose(
        list(named(x).values()), list(named(x, classes=more).values()), rtol=1e-9
    )
