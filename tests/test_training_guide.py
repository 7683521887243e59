"""What the guide of training promises: trackers get the records, and exports need no metajax."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

TESTS = pathlib.Path(__file__).parent
GUIDE = (TESTS.parent / "docs" / "training.md").read_text()
BLOCKED = "import sys; sys.modules['metajax'] = sys.modules['flax'] = None\n"


def blocks_of(text):
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def run(code, folder):
    env = {**os.environ, "PYTHONPATH": f"{TESTS / 'stubs'}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_trackers_get_the_numbers_of_each_record(tmp_path):
    watching = GUIDE.partition("## Keeping the best state")[0]
    run("\n".join(blocks_of(watching)), tmp_path)
    board, tracked = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("tensorboardX", "wandb")
    )
    assert [step for _, step in tracked] == [10, 20]
    for record, step in tracked:
        assert record["step"] == step
        seen = {name: value for name, value, at in board if at == step}
        assert seen.keys() == record.keys()
        for name in ("loss", "evaluate/loss", "grad_norm"):
            np.testing.assert_allclose(seen[name], record[name], rtol=1e-5)


def test_an_exported_predictor_runs_without_metajax(tmp_path):
    here, elsewhere = blocks_of(GUIDE.partition("## Without metajax")[2])
    expected = json.loads(run(here, tmp_path))
    found = json.loads(run(BLOCKED + elsewhere, tmp_path))
    assert np.shape(found) == (3, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(AssertionError, match="ModuleNotFoundError"):
        run(BLOCKED + here, tmp_path)
