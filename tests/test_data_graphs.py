"""Composition graphs: what is an edge, what is left out, what is refused."""

import numpy as np
import pytest

from metajax.data.graphs import check_graph, composition_graph

CHARACTERS = ["林", "木", "森", "江", "⺀"]
PARTS = ["⿰木木", "？", "⿱木⿰木木", "⿰氵工", "⺀"]


def pairs(names, edges):
    return {(names[whole], names[part]) for whole, part in edges}


def test_parts_of_characters():
    names, edges = composition_graph(CHARACTERS, PARTS)
    assert names == [*CHARACTERS, "氵", "工"], "parts that are no character are new nodes"
    assert pairs(names, edges) == {("林", "木"), ("森", "木"), ("江", "氵"), ("江", "工")}
    assert len(edges) == 4 and edges.dtype == np.int32
    np.testing.assert_array_equal(check_graph(names, edges), edges)


def test_edges_that_give_the_answer_away_are_left_out():
    names, edges = composition_graph(CHARACTERS, PARTS, without=["木", "氵"])
    assert pairs(names, edges) == {("江", "工")}
    assert composition_graph(["木"], [""])[1].shape == (0, 2)


@pytest.mark.parametrize(
    ("names", "edges", "message"),
    [
        (
            ["a", "b"],
            [[0, 1], [1, 2]],
            r"Edges \[1\], such as \[1, 2\], lead to no node: there are 2",
        ),
        (["a", "b"], [[-1, 1]], r"Edges \[0\]"),
        (["a", "b"], [[0.0, 1.0]], r"got float64\[1, 2\]"),
        (["a", "b"], [0, 1], r"got int64\[2\]"),
        (["a", "a"], [[0, 1]], r"Names \['a'\] are given more than once"),
    ],
)
def test_a_graph_that_is_not_one_is_refused(names, edges, message):
    with pytest.raises(ValueError, match=message):
        check_graph(names, edges)


def test_bad_tables_are_refused():
    with pytest.raises(ValueError, match="got 1 for 2"):
        composition_graph(["a", "b"], [""])
    with pytest.raises(ValueError, match="got 2 for 2, 1 of them different"):
        composition_graph(["a", "a"], ["", ""])
