"""A data set from a table of comma-separated values, one line for each example."""

from __future__ import annotations

import csv
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from metajax._checked import checked
from metajax.data.datasets import Dataset
from metajax.data.read.pictures import MOST_PIXELS, BrokenFile, read_pictures
from metajax.data.read.rows import fill_gaps, kept_dataset
from metajax.types import Modalities


@checked
def table(
    path: str | os.PathLike[str],
    *,
    label: str,
    images: Sequence[str] = (),
    numbers: Sequence[str] | Mapping[str, Sequence[str]] = (),
    texts: Mapping[str, Callable[[list[str]], np.ndarray]] | None = None,
    size: int | None = None,
    grey: bool = False,
    resample: str = "bicubic",
    invert: bool = False,
    broken: BrokenFile | None = None,
    anywhere: bool = False,
    most_pixels: int = MOST_PIXELS,
) -> Dataset:
    """A table of comma-separated values, with one line for each example.

    The first line names the columns. Each column of images or of texts becomes a modality of that
    name. The columns of numbers together become one modality "numbers", float32[columns], or
    several. Numbers stay as they are written: standardise those of different sizes. With one
    modality x is its array, with several x is a `Modalities`, and an example lacks those whose
    cells are empty. The data set declares the scale 255 for images.

    Args:
        path: the file, in UTF-8.
        label: column with the name of the class.
        images: columns with paths of images, relative to the folder of the table. They are read as
            by `image_folder`.
        numbers: columns with numbers; or {modality: columns}, so that each modality may be missing
            alone.
        texts: {column: function from its texts to an array [texts, ...]}, such as `tokenize` with a
            tokenizer.
        size: height and width of the images; needed where there are any.
        grey: one channel instead of three.
        resample: as in `image_folder`.
        invert: as in `image_folder`.
        broken: called with each file that cannot be read as an image, and its line is left out.
            None makes the first one an error.
        anywhere: whether paths of images may be absolute, or lead out of the folder of the table.
        most_pixels: as in `image_folder`.

    Raises:
        FileNotFoundError: the table, or an image that it names, does not exist.
        ValueError: a table that cannot be read; a column that is missing or occurs twice; a line
            with more or fewer cells than the first; a line without a label; a cell that is not a
            number; an empty column; an empty cell where there is one modality, or beside other
            numbers; not one row for each text; a broken image; a path that leads
            out of the folder of the table; another `resample`; or images without a size.
        ImportError: Pillow is missing.

    >>> import tempfile
    >>> lines = ["kind,length,width", "iris,5.1,3.5", "rose,4.9,3.0", "iris,4.7,3.2"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "flowers.csv")
    ...     _ = file.write_text(os.linesep.join(lines))
    ...     flowers = table(file, label="kind", numbers=["length", "width"])
    >>> flowers.names, flowers.count.tolist(), flowers.x.shape
    (('iris', 'rose'), [2, 1], (3, 2))
    """
    file = pathlib.Path(path)
    texts = texts or {}
    if not isinstance(numbers, Mapping):
        numbers = {"numbers": numbers} if numbers else {}
    modalities = [*images, *texts, *numbers]
    if not modalities or len(set(modalities)) < len(modalities):
        raise ValueError(f"Name images, numbers or texts, each modality once; got {modalities}.")
    if images and size is None:
        raise ValueError(
            f"The columns {list(images)} are images; give size=, the height and width that all get."
        )
    of_numbers = [column for columns in numbers.values() for column in columns]
    lines, cells = _read_table(file, [label, *images, *of_numbers, *texts])
    _check_labels(file, label, lines, cells[label])

    value: dict[str, np.ndarray] = {}
    present: dict[str, Any] = {}
    kept = np.ones(len(lines), bool)
    read = lambda paths: read_pictures(paths, size, grey, broken, most_pixels, resample, invert)
    for column in images:
        paths = _image_paths(file.parent, column, cells[column], anywhere)
        value[column], present[column], is_broken = _images(column, cells[column], paths, read)
        kept &= ~is_broken
    for name, columns in numbers.items():
        of_name = {column: cells[column] for column in columns}
        value[name], present[name] = _numbers(file, lines, of_name)
    for column, encode in texts.items():
        value[column], present[column] = _texts(column, cells[column], encode)

    if len(value) > 1:
        scale = dict.fromkeys(images, 255)
        return kept_dataset(Modalities(value, present), cells[label], kept, scale=scale or None)
    ((name, x),) = value.items()
    _check_gaps(file, name, lines, kept & ~present[name])
    return kept_dataset(x, cells[label], kept, scale=255 if images else None)


def _read_table(file: pathlib.Path, wanted: list[str]) -> tuple[list[int], dict[str, list[str]]]:
    """The line of each example in the file, and the cells of each wanted column."""
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
    cells = {}
    for column in wanted:
        place = header.index(column)
        cells[column] = [row[place].strip() for _, row in body]
    return [line for line, _ in body], cells


def _check_labels(file: pathlib.Path, label: str, lines: list[int], cells: list[str]) -> None:
    """Checks that every example has a label."""
    if blank := [line for line, name in zip(lines, cells, strict=True) if not name]:
        raise ValueError(f"Lines {blank[:10]} of {file} have no {label!r}.")


def _check_gaps(file: pathlib.Path, name: str, lines: list[int], gaps: np.ndarray) -> None:
    """Checks that no example lacks the one modality."""
    if gaps.any():
        shown = [lines[row] for row in np.flatnonzero(gaps)[:10]]
        raise ValueError(
            f"Lines {shown} of {file} have no {name!r}, and nothing else was asked for."
        )


def _image_paths(
    folder: pathlib.Path, column: str, cells: list[str], anywhere: bool
) -> list[pathlib.Path]:
    """The files that a column names."""
    outside = [cell for cell in cells if cell and _leads_out(cell)]
    if outside and not anywhere:
        raise ValueError(
            f"{len(outside)} images of column {column!r} are outside the folder of the table: "
            f"{outside[:10]}. If you trust the table, read it with anywhere=True."
        )
    paths = [folder / cell for cell in cells if cell]
    if absent := [str(path) for path in paths if not path.is_file()]:
        raise FileNotFoundError(
            f"{len(absent)} images of column {column!r} are not there: {absent[:10]}."
        )
    return paths


def _images(
    column: str,
    cells: list[str],
    paths: list[pathlib.Path],
    read: Callable[[list[pathlib.Path]], tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The images [lines, ...], and bool[lines] which lines have one, and which have a broken one.

    Args:
        column: name of the column.
        cells: of the column.
        paths: of the cells that are not empty.
        read: paths -> (the images that can be read, bool[paths] which these are).
    """
    filled = _filled(column, cells)
    images, is_read = read(paths)
    present = filled.copy()
    present[filled] = is_read
    return fill_gaps(column, images, present), present, filled & ~present


def _leads_out(cell: str) -> bool:
    """Whether a path leads out of the folder that it is relative to."""
    return os.path.isabs(cell) or os.path.normpath(cell).split(os.sep)[0] == os.pardir


def _numbers(
    file: pathlib.Path, lines: list[int], columns: dict[str, list[str]]
) -> tuple[np.ndarray, np.ndarray]:
    """The numbers float32[lines, columns], and bool[lines] which lines have them."""
    filled = np.array([[bool(cell) for cell in cells] for cells in columns.values()])
    if not filled.any():
        raise ValueError(f"Columns {list(columns)} of {file} have nothing in them.")
    present = np.asarray(filled.all(axis=0))
    if partly := np.flatnonzero(filled.any(axis=0) & ~present).tolist():
        shown = [lines[row] for row in partly[:10]]
        alone = {column: [column] for column in columns}
        raise ValueError(
            f"Lines {shown} of {file} lack some of {list(columns)}, not all. Columns that may be "
            f"empty alone are modalities of their own: numbers={alone}."
        )
    result = np.zeros((len(lines), len(columns)), np.float32)
    for place, (column, cells) in enumerate(columns.items()):
        for row in np.flatnonzero(present).tolist():
            try:
                # Python reads "1_000" as 1000, and "2020_01" as 202001.
                result[row, place] = float(cells[row].replace("_", "no number"))
            except ValueError as error:
                raise ValueError(
                    f"Line {lines[row]} of {file} has no number in {column!r}: {cells[row]!r}."
                ) from error
    return result, present


def _texts(
    column: str, cells: list[str], encode: Callable[[list[str]], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The encoded texts [lines, ...], and bool[lines] which lines have one."""
    present = _filled(column, cells)
    encoded = np.asarray(encode([cell for cell in cells if cell]))
    return fill_gaps(column, encoded, present), present


def _filled(column: str, cells: list[str]) -> np.ndarray:
    """Which cells are not empty, bool[lines]."""
    filled = np.array([bool(cell) for cell in cells])
    if not filled.any():
        raise ValueError(f"Column {column!r} has nothing in it.")
    return filled
