"""A table of comma-separated values as a data set, a line for each example."""

from __future__ import annotations

import csv
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from metajax.data.datasets import Dataset
from metajax.data.read.folders import Broken, _by_name, _spread
from metajax.data.read.pictures import _pictures
from metajax.types import Modalities


def table(
    path: str | os.PathLike[str],
    *,
    label: str,
    images: Sequence[str] = (),
    numbers: Sequence[str] = (),
    texts: Mapping[str, Callable[[list[str]], np.ndarray]] | None = None,
    size: int | None = None,
    grey: bool = False,
    broken: Broken | None = None,
) -> Dataset:
    """A table of comma-separated values with one line for each example; its first line names the columns.

    Each column of images or of texts is a modality of that name, and the numbers together are one that is called
    "numbers", float32[columns]. With one modality x is its array, with several x is a `Modalities`; an example has not
    got those whose cells are empty.

    Args:
        path: the file, in UTF-8.
        label: column with the name of the class.
        images: columns with paths of images, from the folder of the table on; read as by `image_folder`.
        numbers: columns with numbers.
        texts: {column: what makes an array [texts, ...] of the texts in it}, such as a tokenizer with `tokenize`.
        size: height and width of the images.
        grey: one channel instead of three.
        broken: called with each file that cannot be read as an image, whose line is left out. None makes it an error.

    Raises:
        FileNotFoundError: the table, or images that it names, are not there.
        ValueError: a table that cannot be read, a column that is not there or twice, a line with more or fewer cells
            than the first, no label, what is no number, an empty column, an empty cell where there is one modality or
            beside other numbers, not one row for each text, a broken image, or `size` below 1.
        ImportError: Pillow is missing.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "flowers.csv")
    ...     _ = file.write_text(os.linesep.join(["kind,length,width", "iris,5.1,3.5", "rose,4.9,3.0", "iris,4.7,3.2"]))
    ...     flowers = table(file, label="kind", numbers=["length", "width"])
    >>> flowers.names, flowers.count.tolist(), flowers.x.shape
    (('iris', 'rose'), [2, 1], (3, 2))
    """
    file, texts = pathlib.Path(path), texts or {}
    modalities = [*images, *texts, *(["numbers"] if numbers else [])]
    if not modalities or len(set(modalities)) < len(modalities):
        raise ValueError(f"Name images, numbers or texts, each modality once; got {modalities}.")
    lines, cells = _read_table(file, [label, *images, *numbers, *texts])
    if blank := [line for line, name in zip(lines, cells[label], strict=True) if not name]:
        raise ValueError(f"Lines {blank[:10]} of {file} have no {label!r}.")
    value: dict[str, np.ndarray] = {}
    present: dict[str, Any] = {}
    kept = np.ones(len(lines), bool)
    for column in images:
        value[column], present[column], whole = _images(
            file.parent, column, cells[column], size, grey, broken
        )
        kept &= whole
    if numbers:
        value["numbers"], present["numbers"] = _numbers(
            file, lines, {column: cells[column] for column in numbers}
        )
    for column, encode in texts.items():
        present[column] = _filled(column, cells[column])
        value[column] = _spread(
            column, np.asarray(encode(list(filter(None, cells[column])))), present[column]
        )
    if len(value) > 1:
        return _by_name(Modalities(value, present), cells[label], kept)
    ((name, x),) = value.items()
    if gaps := [line for line, gap in zip(lines, kept & ~present[name], strict=True) if gap]:
        raise ValueError(
            f"Lines {gaps[:10]} of {file} have no {name!r}, and nothing else was asked for."
        )
    return _by_name(x, cells[label], kept)


def _read_table(file: pathlib.Path, wanted: list[str]) -> tuple[list[int], dict[str, list[str]]]:
    """For each example its line in the file, and the cells of each wanted column."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            rows = [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{file} is not a table of comma-separated values in UTF-8 ({error})."
        ) from error
    if len(rows) < 2:
        raise ValueError(
            f"{file} needs a line with the names of the columns and one for each example."
        )
    (_, header), *body = rows
    if missing := [column for column in wanted if header.count(column) != 1]:
        raise ValueError(f"{file} must have each of the columns {missing} once; it has {header}.")
    if uneven := [line for line, row in body if len(row) != len(header)]:
        raise ValueError(
            f"Lines {uneven[:10]} of {file} do not have {len(header)} cells, as its first line has."
        )
    cells = {column: [row[header.index(column)].strip() for _, row in body] for column in wanted}
    return [line for line, _ in body], cells


def _images(
    folder: pathlib.Path,
    column: str,
    cells: list[str],
    size: int | None,
    grey: bool,
    broken: Broken | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The images of a column, where there are some, and which lines have no broken one."""
    there = _filled(column, cells)
    paths = [folder / cell for cell in cells if cell]
    if absent := [str(path) for path in paths if not path.is_file()]:
        raise FileNotFoundError(
            f"{len(absent)} images of column {column!r} are not there: {absent[:10]}."
        )
    picture, read = _pictures(paths, size, grey, broken)
    present = there.copy()
    present[there] = read
    return _spread(column, picture, present), present, present | ~there


def _numbers(
    file: pathlib.Path, lines: list[int], columns: dict[str, list[str]]
) -> tuple[np.ndarray, np.ndarray]:
    """The numbers float32[lines, columns], and which lines have them."""
    filled = np.array([list(map(bool, cells)) for cells in columns.values()])
    there = np.asarray(filled.all(axis=0))
    if partly := np.flatnonzero(filled.any(axis=0) & ~there).tolist():
        raise ValueError(
            f"Lines {[lines[row] for row in partly[:10]]} of {file} lack some of {list(columns)}, not all."
        )
    result = np.zeros((len(lines), len(columns)), np.float32)
    for place, (column, cells) in enumerate(columns.items()):
        for row in np.flatnonzero(there).tolist():
            try:
                result[row, place] = float(cells[row])
            except ValueError as error:
                raise ValueError(
                    f"Line {lines[row]} of {file} has no number in {column!r}: {cells[row]!r}."
                ) from error
    return result, there


def _filled(column: str, cells: list[str]) -> np.ndarray:
    """Which cells have something in them."""
    if not any(cells):
        raise ValueError(f"Column {column!r} has nothing in it.")
    return np.array(list(map(bool, cells)))
