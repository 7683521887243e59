"""Makes the raw samples of this folder and `expected.npz`, the rows that they must become.

The rows are of the data files that `METAJAX_DATA` names. `README.md` says how a raw file is found
for a row. `python tests/raw/make_raw.py HANZI` needs the files of the npm package
hanzi-writer-data 2.0.1 in the folder HANZI.
"""

import functools
import io
import itertools
import json
import os
import pathlib
import sys
import tarfile
import zipfile

import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).parent
expected = {}


def stored(name):
    with np.load(pathlib.Path(os.environ["METAJAX_DATA"]) / name) as file:
        return dict(file.items())


def write_zip(name, files):
    with zipfile.ZipFile(HERE / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(zipfile.ZipInfo(path), content, zipfile.ZIP_DEFLATED)


# Omniglot: a drawing of 105 x 105 bits that becomes a row of 28 x 28. Each pixel of the row is of a
# block of 3 or 4 by 3 or 4 bits: Pillow takes the mean along x, rounds, takes the mean along y, and
# rounds. So any numbers of ink in the lines of the block will do that give the value.


@functools.cache
def block_edges():
    centre = np.arange(105) + 0.5
    place = np.arange(28)[:, None] * 3.75 + 1.875
    inside = ((centre - place) / 3.75 > -0.5) & ((centre - place) / 3.75 <= 0.5)
    return [(row.argmax(), row.argmax() + row.sum()) for row in inside]


def half_up(value):
    return int(np.floor(value + 0.5))


@functools.cache
def ink_of_lines(height, width):
    """{value of a pixel: number of bits of ink in each line of its block}."""
    found = {}
    for ink in itertools.product(range(width + 1), repeat=height):
        lines = [half_up(255 * (width - bits) / width) for bits in ink]
        found.setdefault(255 - half_up(sum(lines) / height), ink)
    return found


def drawing(row):
    paper = np.ones((105, 105), bool)
    for (top, below), line in zip(block_edges(), row, strict=True):
        for (left, right), value in zip(block_edges(), line, strict=True):
            ink = ink_of_lines(below - top, right - left)[value]
            for y, bits in zip(range(top, below), ink, strict=True):
                paper[y, left : left + bits] = False
    file = io.BytesIO()
    Image.fromarray(paper).save(file, "PNG")
    return file.getvalue()


def make_omniglot():
    whole = stored("omniglot.npz")
    background = np.array([0, 40, 300, 11000, 19260])[:, None] + [3, 8]
    evaluation = np.array([19280, 20000, 25000, 32000, 32440])[:, None] + [0, 19]
    rows = np.concatenate([background, evaluation]).ravel()
    names = whole["names"][whole["label"][rows]]
    files = {
        f"{name}/{row // 20 + 1:04}_{drawer:02}.png": drawing(whole["image"][row])
        for row, name, drawer in zip(rows, names, whole["drawer"][rows], strict=True)
    }
    for part in ("images_background", "images_evaluation"):
        inside = {name: content for name, content in files.items() if name.startswith(part)}
        mac = {f"__MACOSX/{part}/._0001_01.png": b"of another program"}
        write_zip(f"{part}.zip", dict(reversed(inside.items())) | mac)
    expected["omniglot.image"] = whole["image"][rows]
    expected["omniglot.drawer"] = whole["drawer"][rows]
    expected["omniglot.name"] = names


def stroke_text(points):
    lines = ["START"]
    for number, (x, y, t, start) in enumerate(points.tolist()):
        if start and number:
            lines.append("BREAK")
        late = 2000 * number if t == 65535 else 0
        lines.append(f"{x / 16:.6f},{-y / 16:.6f},{t + late:.6f}")
    return "\n".join([*lines, "BREAK", ""])


def make_strokes():
    whole = stored("omniglot_strokes.npz")
    sizes = np.diff(whole["offset"])
    late = np.unique(np.repeat(np.arange(4840), sizes)[whole["stroke"][:, 2] == 65535])
    name = whole["names"][whole["label"]]
    first = [
        row for row in np.flatnonzero(sizes < 90) if name[row].startswith(("Balinese", "Greek"))
    ]
    second = [
        row
        for row in np.flatnonzero(sizes < 90)
        if name[row].startswith(("Katakana", "Tagalog", "Sanskrit", "Japanese"))
    ]
    rows = [*np.array(first)[[0, 1, 2, 30, 31, -5, -4, -1]], late[sizes[late].argmin()]]
    rows = sorted({*rows, *np.array(second)[np.linspace(0, len(second) - 1, 11).astype(int)]})
    small1 = ("Balinese", "Early", "Greek", "Korean", "Latin")
    both = [row for row in rows if name[row].startswith("Greek")][:1]
    for part, wanted in (
        ("small1", [row for row in rows if name[row].startswith(small1)]),
        ("small2", [row for row in rows if not name[row].startswith(small1)] + both),
    ):
        pictures, texts = {}, {}
        for row in wanted[::-1]:
            place = f"background_{part}/{name[row]}/{row:04}_{whole['drawer'][row]:02}"
            pictures[f"images_{place}.png"] = drawing(whole["image"][row])
            points = whole["stroke"][whole["offset"][row] : whole["offset"][row + 1]]
            texts[f"strokes_{place}.txt"] = stroke_text(points)
        write_zip(f"images_background_{part}.zip", pictures)
        write_zip(f"strokes_background_{part}.zip", texts)
    expected["strokes.image"] = whole["image"][rows]
    expected["strokes.stroke"] = np.concatenate(
        [whole["stroke"][whole["offset"][row] : whole["offset"][row + 1]] for row in rows]
    )
    expected["strokes.count"] = sizes[rows]
    expected["strokes.drawer"] = whole["drawer"][rows]
    expected["strokes.name"] = name[rows]


# Photographs: a picture of 80 x 68 of which LANCZOS makes about the decoded row of 64 x 64, by
# least squares.


@functools.cache
def resize_inverse(length):
    rows = Image.fromarray(np.eye(length, dtype=np.float32))
    matrix = np.asarray(rows.resize((64, length), Image.Resampling.LANCZOS), np.float64).T
    return np.linalg.pinv(matrix)


def photograph(row):
    vertical, horizontal = resize_inverse(68), resize_inverse(80)
    large = np.einsum("ab,bcd,ec->aed", vertical, row.astype(float), horizontal, optimize=True)
    file = io.BytesIO()
    large = np.clip(np.rint(large), 0, 255).astype(np.uint8)
    Image.fromarray(large).save(file, "PNG", optimize=True)
    return file.getvalue()


def make_grocery():
    whole = stored("grocery.npz")
    table = ["Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),"
             "Iconic Image Path (str),Product Description Path (str)"]  # fmt: skip
    files, lists, rows = {}, {"train": [], "val": [], "test": []}, []
    products = {"train": [0, 28], "val": [59], "test": [13, 80]}
    chosen = sorted(product for wanted in products.values() for product in wanted)
    for split, wanted in products.items():
        for product in wanted:
            row = np.flatnonzero((whole["fine"] == product) & (whole["split"] == split))[0]
            jpeg = whole["jpeg"][whole["offset"][row] : whole["offset"][row + 1]].tobytes()
            raw = photograph(np.asarray(Image.open(io.BytesIO(jpeg))))
            fine, coarse = whole["fine_name"][product], whole["coarse_name"][product]
            path = f"{split}/{coarse}/{fine}/{fine}_001.jpg"
            files[path] = raw
            lists[split].append(f"{path}, {product}, {whole['coarse'][row]}")
            rows.append(row)
    for product in chosen:
        fine, coarse = whole["fine_name"][product], whole["coarse_name"][product]
        row = next(row for row in rows if whole["fine"][row] == product)
        base = f"iconic-images-and-descriptions/{coarse}/{fine}/{fine}"
        table.append(
            f"{fine},{product},{coarse},{whole['coarse'][row]},/{base}_Iconic.jpg,/{base}_Description.txt"
        )
        icon = io.BytesIO()
        Image.fromarray(whole["iconic"][product]).save(icon, "PNG", optimize=True)
        files[f"{base}_Iconic.jpg"] = icon.getvalue()
        files[f"{base}_Description.txt"] = f"{whole['description'][product]}\r\n".encode()
    files["classes.csv"] = "\r\n".join(table).encode()
    for split, lines in lists.items():
        files[f"{split}.txt"] = "".join(f"{line}\n" for line in lines).encode()
    with tarfile.open(HERE / "grocery.tar.gz", "w:gz") as archive:
        for name, content in {
            "README.md": b"not used",
            **{f"dataset/{n}": c for n, c in files.items()},
        }.items():
            member = tarfile.TarInfo(f"GroceryStoreDataset-fc80ba9/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    pieces = [whole["jpeg"][whole["offset"][row] : whole["offset"][row + 1]] for row in rows]
    expected["grocery.jpeg"] = np.concatenate(pieces)
    expected["grocery.offset"] = np.cumsum([0, *map(len, pieces)])
    for name in ("fine", "coarse", "split"):
        expected[f"grocery.{name}"] = whole[name][rows]
    for name in ("fine_name", "coarse_name", "description", "iconic"):
        expected[f"grocery.{name}"] = whole[name][chosen]


def make_hanzi(folder):
    whole = stored("hanzi.npz")
    graphics = {}
    for row, character in enumerate(whole["character"].tolist()):
        file = folder / f"{character}.json"
        if file.is_file():
            graphics[row] = json.loads(file.read_text())
    size = {row: len(json.dumps(entry)) for row, entry in graphics.items()}
    small = sorted(size, key=size.get)
    cubic = [row for row in small if any(" C " in path for path in graphics[row]["strokes"])]
    lines = [row for row in small if any(" L " in path for path in graphics[row]["strokes"])]
    bare = [row for row in small if not whole["definition"][row]]
    broken = [
        row
        for row in small
        if any(
            number % 1
            for stroke in graphics[row]["medians"]
            for point in stroke
            for number in point
        )
    ]
    rows = {*cubic[:2], *lines[:2], *bare[:2], *broken[:2], *small[:300:20]}
    rows = sorted(rows)
    words = [
        {
            "character": whole["character"][row],
            **({"definition": whole["definition"][row]} if whole["definition"][row] else {}),
            "pinyin": [sound for sound in whole["pinyin"][row].split(",") if sound],
            "decomposition": whole["decomposition"][row],
            "radical": whole["radical"][row],
        }
        for row in rows
    ]
    drawn = [
        {
            "character": whole["character"][row],
            "strokes": graphics[row]["strokes"],
            "medians": graphics[row]["medians"],
        }
        for row in rows
    ]
    for name, entries in (("dictionary.txt", words), ("graphics.txt", drawn)):
        text = "".join(
            json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n" for entry in entries
        )
        (HERE / name).write_text(text, "utf-8")
    pieces = [whole["stroke"][whole["offset"][row] : whole["offset"][row + 1]] for row in rows]
    expected["hanzi.stroke"] = np.concatenate(pieces)
    expected["hanzi.offset"] = np.cumsum([0, *map(len, pieces)])
    for name in ("image", "character", "radical", "definition", "decomposition", "pinyin"):
        expected[f"hanzi.{name}"] = whole[name][rows]


if __name__ == "__main__":
    make_omniglot()
    make_strokes()
    make_grocery()
    make_hanzi(pathlib.Path(sys.argv[1]))
    np.savez_compressed(HERE / "expected.npz", **expected)
