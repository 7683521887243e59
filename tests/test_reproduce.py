"""Protocol cards run at a tiny size, go on where they were, and are never mixed."""

import dataclasses
import importlib
import json
import pathlib
import shutil
import sys

import jax
import numpy as np
import pooch
import pytest
import requests

import metajax as mj

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"
sys.path[:0] = [str(FOLDER), str(FOLDER / "reproduce")]

import cards  # noqa: E402
import papers  # noqa: E402

NAMES = sorted({path.stem for path in (FOLDER / "reproduce").glob("*.py")} - {"cards"})
CARDS = {name: importlib.import_module(name) for name in NAMES}
ROWS = [(name, row) for name, card in CARDS.items() for row in card.ROWS]
LARGER = {"maml-20-way", "5-shot", "sinusoids-0.01", "maml-0.01", "audio-5", "audio-10", "audio-15"}
"""Rows that are others with other numbers; they are not run."""


@pytest.fixture
def as_script():
    """The settings of a script, in place of those of the suite."""
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def no_files(monkeypatch):
    """Data sets in place of Omniglot and of written and spoken digits, which need no data file."""
    images = np.random.default_rng(0).integers(0, 256, (50 * 20, 28, 28, 1), np.uint8)
    names = [f"Greek/{number}" for number in range(50)]
    characters = mj.data.dataset(images, np.arange(50 * 20) // 20, names=names, scale=255)
    monkeypatch.setattr(mj.data, "omniglot", lambda: characters)
    monkeypatch.setattr(cards, "SIZES", {"train": 30, "validation": 10, "test": 10})
    monkeypatch.setattr(cards, "VALIDATION_TASKS", 4)
    monkeypatch.setattr(mj.data, "paired_digits", few_digits)


def few_digits(pairs, seed):
    """Random pictures and recordings."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (10 * pairs, 28, 28, 1), np.uint8)
    audio = rng.integers(-99, 99, (10 * pairs, 6000), np.int16)
    x = mj.data.as_modalities({"image": image, "audio": audio})
    return mj.data.dataset(x, np.repeat(np.arange(10), pairs), scale={"image": 255, "audio": 32768})


def run(name, folder, *options):
    """The rows of the result file of a tiny run."""
    places = [f"--{place}={folder / place}" for place in ("runs", "tasks", "out")]
    card = CARDS[name]
    cards.main(card.parser.parse_args(["--tiny", *places, *options]), name, card.ROWS)
    return json.loads((folder / "out" / f"{name}.json").read_text())["rows"]


def run_sinusoids(folder):
    """The one row of a tiny run of MAML on sinusoids, which is compiled fast."""
    (row,) = run("cavia", folder, "--rows", "maml-0.1").values()
    return row


@pytest.mark.usefixtures("no_files", "as_script")
@pytest.mark.parametrize(("name", "row"), [one for one in ROWS if one[1] not in LARGER])
def test_a_row_runs(name, row, tmp_path):
    (found,) = run(name, tmp_path, "--rows", row).values()
    assert found["steps"] == 2
    assert found["curve"][-1][0] == 2
    assert found["columns"].keys() == CARDS[name].ROWS[row].columns.keys()
    for column in found["columns"].values():
        cell = column[CARDS[name].ROWS[row].metric]
        assert cell is None or np.isfinite(cell).all()
        assert (tmp_path / "tasks" / column["file"]).exists()


class Read(dict):
    """A dict that notes which of its keys were read."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.keys_read = set()

    def __getitem__(self, key):
        self.keys_read.add(key)
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.keys_read.add(key)
        return super().get(key, default)

    def __or__(self, other):
        joined = Read(super().__or__(other))
        joined.keys_read = self.keys_read
        return joined


@pytest.mark.usefixtures("no_files", "as_script")
@pytest.mark.parametrize(("name", "row"), ROWS)
def test_every_choice_of_a_protocol_is_read(name, row):
    """A number that nothing reads could contradict what is trained."""
    found = CARDS[name].ROWS[row]
    protocol = Read({**found.protocol, "seed": 0, "steps": 10})
    found.learner(protocol)
    found.optimizer(protocol, 10)
    found.draw(protocol)
    found.parts(protocol)
    by_cards = {"iterations", "tasks"}
    assert set(found.protocol) - protocol.keys_read <= by_cards
    for column in found.columns.values():
        assert column.changes.keys() <= found.protocol.keys()


@pytest.mark.usefixtures("as_script")
def test_anil_with_features_that_are_computed_once_is_the_recipe():
    protocol = {**CARDS["anil"].ONE_SHOT, "width": 4, "ways": 3, "seed": 0}
    once = CARDS["anil"].learner(protocol)
    recipe = mj.algorithms.anil(cards.strided_conv4(protocol), inner_rate=2.0, inner_steps=5)
    x = jax.random.uniform(jax.random.key(0), (6, 28, 28, 1))
    batch = mj.Batch(x, np.arange(6) % 3)
    task = mj.Task(batch, batch._replace(x=x[::-1]))
    derivative = lambda one: jax.grad(
        lambda params: one.task_loss(params, task, jax.random.key(1))[0]
    )(one.params)
    for found, expected in zip(*map(jax.tree.leaves, map(derivative, (once, recipe))), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    inner = once.adaptation.inner(once.params, batch)
    assert inner.inputs[1].x.shape == (6, 4)  # features


@pytest.mark.parametrize(
    ("decay", "whole", "tenth"),
    [
        (None, [1.0, 1.0], [1.0, 1.0]),
        ({"factor": 0.5, "every": 20}, [1.0, 0.5**4], [1.0, 0.5**4]),
        ({"cosine_to": 0.1}, [1.0, 0.1], [1.0, 0.1]),
    ],
)
def test_a_fraction_of_the_steps_ends_at_the_same_step_size(decay, whole, tenth, monkeypatch):
    rates = []
    monkeypatch.setattr(cards.optax, "adam", lambda rate, eps: rates.append(rate))
    protocol = {"outer_rate": 1.0, "decay": decay, "iterations": 100}
    for steps, expected in ((100, whole), (10, tenth)):
        cards.adam(protocol, steps)
        rate = rates[-1] if callable(rates[-1]) else lambda step: 1.0
        last = steps if decay and "cosine_to" in decay else steps - 1
        np.testing.assert_allclose([rate(0), rate(last)], expected, rtol=1e-5)


@pytest.mark.usefixtures("as_script")
def test_a_run_that_was_cut_off_ends_with_the_same_figures(tmp_path, monkeypatch):
    whole = run_sinusoids(tmp_path / "whole")
    fit = mj.training.fit

    def interrupted(*arguments, **options):
        return fit(*arguments, **options, on_record=lambda record: True)

    monkeypatch.setattr(mj.training, "fit", interrupted)
    with pytest.raises(SystemExit, match="Interrupted after step 1; the same command goes on"):
        run_sinusoids(tmp_path / "cut")
    assert not (tmp_path / "cut" / "out").exists()
    monkeypatch.setattr(mj.training, "fit", fit)
    cut = run_sinusoids(tmp_path / "cut")
    assert cut["columns"] == whole["columns"]
    assert cut["curve"] == whole["curve"]


@pytest.mark.usefixtures("as_script")
def test_fixed_tasks_are_read_again(tmp_path):
    first = run_sinusoids(tmp_path)
    files = {path: path.read_bytes() for path in (tmp_path / "tasks").iterdir()}
    shutil.rmtree(tmp_path / "runs")
    assert run_sinusoids(tmp_path)["columns"] == first["columns"]
    assert {path: path.read_bytes() for path in (tmp_path / "tasks").iterdir()} == files


@pytest.mark.usefixtures("as_script")
def test_a_run_of_another_version_or_protocol_is_refused(tmp_path):
    run_sinusoids(tmp_path)
    (about,) = (tmp_path / "runs").glob("*/about.json")
    found = json.loads(about.read_text())
    found["versions"]["metajax"] = "0.0.1"
    found["protocol"]["tasks"] = 7
    about.write_text(json.dumps(found))
    with pytest.raises(SystemExit, match=r"tasks: 7 there, 2 here, metajax: 0\.0\.1 there"):
        run_sinusoids(tmp_path)


@pytest.mark.usefixtures("as_script")
def test_a_test_with_another_net_is_refused(tmp_path, monkeypatch):
    row = CARDS["cavia"].ROWS["maml-0.1"]
    (column, *_) = row.columns.values()
    other = dataclasses.replace(column, changes={**column.changes, "width": 8})
    changed = dataclasses.replace(row, columns={"wider": other})
    monkeypatch.setitem(CARDS["cavia"].ROWS, "maml-0.1", changed)
    with pytest.raises(SystemExit, match="'wider' has a net of other shapes than the training"):
        run_sinusoids(tmp_path)


@pytest.mark.parametrize("text", ["0", "-0.1", "1.5", "nan"])
def test_a_fraction_is_in_0_to_1(text, capsys):
    with pytest.raises(SystemExit):
        CARDS["cavia"].parser.parse_args(["--fraction", text])
    assert "in (0, 1]" in capsys.readouterr().err


@pytest.mark.usefixtures("as_script")
def test_a_missing_data_file_says_how_to_get_it(tmp_path, monkeypatch):
    def fetch(*arguments):
        raise requests.ConnectionError("no way to the origin")

    monkeypatch.setattr(pooch.Pooch, "fetch", fetch)
    monkeypatch.setenv("METAJAX_DATA", str(tmp_path))
    with pytest.raises(ConnectionError, match=r"omniglot\.npz is not in .* By hand, fetch"):
        run("maml", tmp_path, "--rows", "maml-5-way")


@pytest.mark.usefixtures("as_script")
def test_the_page_refuses_a_result_of_another_protocol_or_test(tmp_path, monkeypatch):
    found = run_sinusoids(tmp_path)
    monkeypatch.setattr(papers, "RESULTS", tmp_path / "out")
    with pytest.raises(SystemExit, match=r"another protocol: .*tests: 4 there, 600 here"):
        papers.papers()
    row = CARDS["cavia"].ROWS["maml-0.1"]
    found["protocol"] = row.protocol
    for title, column in row.columns.items():
        found["columns"][title] |= {"changes": column.changes, "tests": column.tests}

    def write(**rows):
        path = tmp_path / "out" / "cavia.json"
        path.write_text(json.dumps({"rows": rows}))

    write(first=found)
    assert papers.papers().count("| Zintgraf et al. 2019 |") == 1
    assert papers.after_inner_steps().count("10 shots, inner steps: 5") == 1
    assert papers.fixed_tasks().count("cavia.py, maml-0.1") == 1
    other = json.loads(json.dumps(found))
    for column in other["columns"].values():
        column["fingerprint"] = "0" * 16
    write(first=found, second=other)
    with pytest.raises(SystemExit, match=r"tested on another .*npz than other rows"):
        papers.papers()
    write(first=found | {"row": "gone"})
    with pytest.raises(SystemExit, match="is not a row of its card"):
        papers.papers()


def test_files_of_tasks_are_those_that_results_were_measured_on():
    for card, name, row, runs in papers.results():
        assert row is card.ROWS[name]
        for column in runs[0]["columns"].values():
            path = FOLDER / "reproduce" / "tasks" / column["file"]
            assert cards.fingerprint(path) == column["fingerprint"]


@pytest.mark.parametrize(
    ("ours", "published", "interval", "fraction", "expected"),
    [
        (98.5, 98.7, 0.4, 1, "within"),
        (98.2, 98.7, 0.4, 1, "outside: why"),
        (99.2, 98.7, 0.4, 1, "outside, better: why"),
        (98.3, 98.8, None, 1, "within"),
        (90.0, 98.8, None, 0.05, "fraction"),
    ],
)
def test_verdicts(ours, published, interval, fraction, expected):
    row = CARDS["maml"].ROWS["maml-5-way"]
    column = cards.column(published, interval, reason="why")
    assert papers.verdict(row, column, ours, fraction) == expected
    error = dataclasses.replace(row, metric="loss")
    mirrored = papers.verdict(error, column, 2 * published - ours, fraction)
    assert mirrored == (expected if interval or fraction < 1 else "outside: why")
    printed = cards.column(0.67)
    assert papers.verdict(error, printed, 0.6746, 1) == "within"
    assert papers.verdict(error, printed, 0.6754, 1) == "outside"


def test_hours_count_every_part_of_a_run():
    records = [{"step": step, "tasks_per_second": speed} for step, speed in ((10, 2.0), (30, 4.0))]
    assert cards.hours(records, tasks=360) == pytest.approx(0.5 + 0.5)
