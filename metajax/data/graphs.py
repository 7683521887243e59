"""Knowledge graphs over classes: names of nodes, and edges as pairs of their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike


def composition_graph(
    characters: Sequence[str], decompositions: Sequence[str], *, without: Iterable[str] = ()
) -> tuple[list[str], np.ndarray]:
    """What each character is composed of: names of nodes and edges int32[edges, (whole, part)].

    A decomposition is an ideographic description sequence: operators of shape (U+2FF0 to U+2FFF), which are ignored,
    and parts; "？" is an unknown part. The nodes are the characters, in the order given, then the parts that are no
    character, in the order met. Each pair is one edge, however often the part occurs; none leads to itself.

    Args:
        characters: each once.
        decompositions: one for each character.
        without: parts whose edges are left out, such as the radicals where the radical is to be predicted: they would
            give the answer away.

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
            f"Need one decomposition for each of different characters, got {len(decompositions)} for "
            f"{len(characters)}, {len(number)} of them different."
        )
    ignored, edges = {"？", *without}, dict[tuple[int, int], None]()
    for character, decomposition in zip(characters, decompositions, strict=True):
        for part in decomposition:
            if not ("\u2ff0" <= part <= "\u2fff" or part in ignored or part == character):
                edges[number[character], number.setdefault(part, len(number))] = None
    return list(number), np.array(list(edges), np.int32).reshape(-1, 2)


def check_graph(names: Sequence[str], edges: ArrayLike) -> np.ndarray:
    """The edges int32[edges, 2] of a graph of your own, checked before it is compiled away.

    Raises:
        ValueError: edges that are not pairs of integers, an edge to a node that there is not, or a name given twice.

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
    if (dangling := np.flatnonzero(((pairs < 0) | (pairs >= len(names))).any(axis=1))).size:
        raise ValueError(
            f"Edges {dangling[:10].tolist()}, such as {pairs[dangling[0]].tolist()}, lead to no node: there are "
            f"{len(names)}, numbered from 0; drop these edges or add the nodes."
        )
    return pairs.astype(np.int32)
