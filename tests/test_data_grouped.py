"""Tasks within a group of classes."""

import functools

import jax
import numpy as np
import pytest
import scipy.stats
from drawn_tasks import KEY, draw_list, numbered

import metajax as mj
from metajax.data.tasks.grouped import group_members, grouped_episodes

NAMES = ["A/0", "B/0", "A/1", "B/1", "C/0", "A/2", "B/2", "A/3"]  # 4 of A, 3 of B, 1 of C


@functools.cache
def rows(each=5):
    return numbered([each] * 8, names=NAMES, info=np.arange(8))


def test_grouped_tasks_stay_within_a_group():
    groups, classes = [], []
    for task in draw_list(grouped_episodes(3, 2, 3), 1500, rows()):
        np.testing.assert_array_equal(task.support.y, np.repeat(np.arange(3), 2))
        np.testing.assert_array_equal(task.query.y, np.repeat(np.arange(3), 3))
        row, asked = task.support.x[:, 0] - 1, task.query.x[:, 0] - 1
        assert len({*row, *asked}) == 15
        owner = row[::2] // 5
        np.testing.assert_array_equal(task.support.info, owner)
        np.testing.assert_array_equal(row // 5, np.repeat(owner, 2))
        np.testing.assert_array_equal(asked // 5, np.repeat(owner, 3))
        assert len(set(owner)) == 3 and len({NAMES[number][0] for number in owner}) == 1
        groups.append(NAMES[owner[0]][0])
        classes.append(owner[1])
    number = np.array([groups.count(name) for name in "ABC"])
    assert number[2] == 0
    assert scipy.stats.chisquare(number[:2]).pvalue > 1e-3, "each group as likely as the other"
    for name, size in {"A": 4, "B": 3}.items():
        seen = np.bincount([n for n in classes if NAMES[n].startswith(name)])
        assert (seen > 0).sum() == size and scipy.stats.chisquare(seen[seen > 0]).pvalue > 1e-3


def test_groups_are_those_of_the_function():
    sample = grouped_episodes(3, 1, 1, group=lambda name: name[-1])
    for task in draw_list(sample, 50, rows()):
        numbers = {NAMES[row // 5][-1] for row in task.support.x[:, 0] - 1}
        assert numbers == {"0"}, "the only group with three classes"
    without = numbered([3] * 8)  # no "/" in a name: one group
    assert jax.eval_shape(grouped_episodes(8, 1, 1), without, KEY).query.y.shape == (8,)


def test_members_are_padded():
    members, sizes = group_members(["a", "b", "a", "c", "b", "a"], ways=2)
    assert members.tolist() == [[0, 2, 5], [1, 4, 0]] and sizes.tolist() == [3, 2]


def test_what_does_not_fit_is_refused():
    for sizes in ((0, 1, 1), (1, 0, 1), (1, 1, True)):
        with pytest.raises(ValueError, match=r"must be a whole number.* got"):
            grouped_episodes(*sizes)
    source = numbered([4, 30, 6, 12, 2, 9, 50, 5], names=NAMES)
    with pytest.raises(
        ValueError,
        match=r"shots=1, queries=2 together must not .* Too small are 1 of 8, \{'C/0': 2\}",
    ):
        grouped_episodes(2, 1, 2)(source, KEY)
    with pytest.raises(
        ValueError,
        match=r"No group has ways=5 classes; the largest have \{'A': 4, 'B': 3, 'C': 1\}",
    ):
        jax.jit(grouped_episodes(5, 1, 1))(source, KEY)
    assert mj.data.group_of("A/0") == "A"
