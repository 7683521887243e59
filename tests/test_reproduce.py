"""Protocol cards run at a tiny size, go on where they were, and are never mixed."""

import importlib
import json
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"
sys.path[:0] = [str(FOLDER), str(FOLDER / "reproduce")]

import cards  # noqa: E402
import papers  # noqa: E402

NAMES = sorted({path.stem for path in (FOLDER / "reproduce").glob("*.py")} - {"cards"})


@pytest.fixture
def as_script():
    """The settings of a script, in place of those of the suite."""
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        yield


def run(name, folder, *options):
    """The rows of the result file of a tiny run."""
    card = importlib.import_module(name)
    places = [f"--{place}={folder / place}" for place in ("runs", "tasks", "out")]
    cards.main(card.parser.parse_args(["--tiny", *places, *options]), name, card.ROWS)
    return json.loads((folder / "out" / f"{name}.json").read_text())["rows"]


@pytest.mark.usefixtures("packs")
@pytest.mark.parametrize("name", NAMES)
def test_a_card_runs(as_script, name, tmp_path):
    card = importlib.import_module(name)
    first = list(card.ROWS)[-1]
    rows = run(name, tmp_path, "--rows", first)
    (found,) = rows.values()
    assert found["steps"] == 2
    assert found["curve"][-1][0] == 2
    assert found["measured"].keys() == card.ROWS[first].columns.keys()
    for measured in found["measured"].values():
        assert np.isfinite(measured[card.ROWS[first].metric]).all()
        assert len(measured["tasks"]) == 16


def test_a_run_that_was_cut_off_ends_with_the_same_figures(as_script, tmp_path, monkeypatch):
    whole = run("cavia", tmp_path / "whole", "--rows", "maml-0.1")
    fit = cards.mj.training.fit

    def cut_off(*arguments, **options):
        fit(*arguments, **options, on_record=lambda record: True)
        raise KeyboardInterrupt

    monkeypatch.setattr(cards.mj.training, "fit", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run("cavia", tmp_path / "cut", "--rows", "maml-0.1")
    monkeypatch.setattr(cards.mj.training, "fit", fit)
    cut = run("cavia", tmp_path / "cut", "--rows", "maml-0.1")
    (whole,), (cut,) = whole.values(), cut.values()
    assert cut["measured"] == whole["measured"]
    assert cut["curve"] == whole["curve"]


def test_fixed_tasks_are_read_again(as_script, tmp_path):
    first = run("cavia", tmp_path, "--rows", "maml-0.1")
    files = {path: path.read_bytes() for path in (tmp_path / "tasks").iterdir()}
    shutil.rmtree(tmp_path / "runs")
    second = run("cavia", tmp_path, "--rows", "maml-0.1")
    assert {path: path.read_bytes() for path in (tmp_path / "tasks").iterdir()} == files
    assert [row["measured"] for row in first.values()] == [
        row["measured"] for row in second.values()
    ]


def test_a_run_of_another_version_or_protocol_is_refused(as_script, tmp_path):
    run("cavia", tmp_path, "--rows", "maml-0.1")
    (about,) = (tmp_path / "runs").glob("*/about.json")
    found = json.loads(about.read_text())
    found["versions"]["metajax"] = "0.0.1"
    found["protocol"]["tasks"] = 7
    about.write_text(json.dumps(found))
    with pytest.raises(SystemExit, match=r"tasks: 7 there, 2 here, metajax: 0\.0\.1 there"):
        run("cavia", tmp_path, "--rows", "maml-0.1")


@pytest.mark.parametrize("text", ["0", "-0.1", "1.5", "nan"])
def test_a_fraction_is_in_0_to_1(text, capsys):
    card = importlib.import_module("cavia")
    with pytest.raises(SystemExit):
        card.parser.parse_args(["--fraction", text])
    assert "in (0, 1]" in capsys.readouterr().err


def test_a_missing_data_file_says_how_to_get_it(as_script, tmp_path, monkeypatch):
    monkeypatch.setenv("METAJAX_DATA", str(tmp_path))
    monkeypatch.setenv("METAJAX_DOWNLOAD", "0")
    with pytest.raises((FileNotFoundError, OSError), match=r"omniglot\.npz"):
        run("maml", tmp_path, "--rows", "maml-5-way")


def test_the_page_refuses_a_result_of_another_protocol(as_script, tmp_path, monkeypatch):
    rows = run("cavia", tmp_path, "--rows", "maml-0.1")
    monkeypatch.setattr(papers, "RESULTS", tmp_path / "out")
    with pytest.raises(SystemExit, match=r"another protocol: .*tests: 4 there, 600 here"):
        papers.papers()
    (key, row) = next(iter(rows.items()))
    card = importlib.import_module("cavia")
    rows[key] = row | cards.plain(card.ROWS["maml-0.1"])
    (tmp_path / "out" / "cavia.json").write_text(json.dumps({"rows": rows}))
    assert papers.papers().count("| Zintgraf et al. 2019 |") == 4


@pytest.mark.parametrize(
    ("ours", "published", "interval", "fraction", "expected"),
    [
        (98.5, 98.7, 0.4, 1, "within"),
        (98.2, 98.7, 0.4, 1, "outside: why"),
        (99.2, 98.7, 0.4, 1, "outside, better: why"),
        (98.3, 98.8, None, 1, "within"),
        (90.0, 98.8, None, 0.05, "fraction"),
        (90.0, None, None, 1, "nothing published"),
    ],
)
def test_verdicts(ours, published, interval, fraction, expected):
    row = importlib.import_module("maml").ROWS["maml-5-way"]
    column = cards.Column(published, interval, reason="why")
    assert papers.verdict(row, column, ours, fraction) == expected


def test_hours_count_every_part_of_a_run():
    records = [{"seconds": one} for one in (1800.0, 3600.0, 900.0, 1800.0)]
    assert cards.hours(records) == pytest.approx(1.5)
