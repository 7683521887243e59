"""Knowledge graphs over classes: names of nodes, and edges as pairs of their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from metajax._checked import checked

_UNKNOWN = "？"
_FIRST_OPERATOR, _LAST_OPERATOR = "\u2ff0", "\u2fff"


@checked
def composition_graph(
    characters: Sequence[str], decompositions: Sequence[str], *, without: Iterable[str] = ()
) -> tuple[list[str], np.ndarray]:
    """The graph of what each character is composed of.

    A decomposition is an ideographic description sequence: operators of shape (U+2FF0 to U+2FFF),
    which are ignored, and parts; "？" is an unknown part. Each pair is one edge, however often the
    part occurs, and no character is a part of itself.

    Args:
        characters: each once.
        decompositions: one for each character.
        without: parts whose edges are left out. Where the radical is to be predicted, leave the
            radicals out: their edges would give the answer away.

    Returns:
        (names of the nodes, edges int32[edges, (whole, part)]). The nodes are the characters in the
        given order, then the parts that are not among them, in the order in which they occur.

    Raises:
        ValueError: not one decomposition for each character, or a character given twice.

    >>> names, edges = composition_graph(["江", "工"], ["⿰氵工", "？"])
    >>> names, edges.tolist()
    (['江', '工', '氵'], [[0, 2], [0, 1]])
    >>> composition_graph(["江", "工"], ["⿰氵工", "？"], without=["氵"])[1].tolist()
    [[0, 1]]
    """
    number = {character: row for row, character in enumerate(characters)}
    if len(characters) != len(decompositions) or len(number) != len(characters):
        raise ValueError(
            "Need one decomposition for each of different characters, "
            f"got {len(decompositions)} for {len(characters)}, {len(number)} of them different."
        )
    ignored = {_UNKNOWN, *without}
    edges: dict[tuple[int, int], None] = {}  # a set that keeps its order
    for character, decomposition in zip(characters, decompositions, strict=True):
        for part in decomposition:
            is_operator = _FIRST_OPERATOR <= part <= _LAST_OPERATOR
            if is_operator or part in ignored or part == character:
                continue
            part_number = number.setdefault(part, len(number))
            edges[number[character], part_number] = None
    return list(number), np.array(list(edges), np.int32).reshape(-1, 2)


@checked
def check_graph(names: Sequence[str], edges: ArrayLike) -> np.ndarray:
    """Checks a graph of your own while it is concrete, and returns its edges as int32[edges, 2].

    Args:
        names: of the nodes, each once.
        edges: pairs of numbers of nodes.

    Raises:
        ValueError: edges that are not pairs of integers, an edge to a node that does not exist, or
            a name given twice.

    >>> check_graph(["cat", "animal"], [[0, 1]]).tolist()
    [[0, 1]]
    """
    pairs = np.asarray(edges)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise ValueError(
            f"Edges must be integers [edges, 2], got {pairs.dtype}{list(pairs.shape)}."
        )
    if twice := [name for name in dict.fromkeys(names) if list(names).count(name) > 1]:
        raise ValueError(f"Names {twice[:10]} are given more than once; join their nodes.")
    outside = ((pairs < 0) | (pairs >= len(names))).any(axis=1)
    if outside.any():
        dangling = np.flatnonzero(outside)
        raise ValueError(
            f"Edges {dangling[:10].tolist()}, such as {pairs[dangling[0]].tolist()}, lead to no "
            f"node: there are {len(names)}, numbered from 0; drop these edges or add the nodes."
        )
    return pairs.astype(np.int32)
