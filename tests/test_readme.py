"""The code of the README and of the pages under docs/ runs, block after block, as a reader would type it."""

import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
    "page", ["README.md", "docs/modalities.md", "docs/performance.md", "docs/data.md"]
)
def test_the_code_of_a_page_runs(page, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    assert blocks
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks))
    programs = {"JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir}
    torn = "ignore:Error reading persistent compilation cache entry:UserWarning"  # another worker is writing it
    subprocess.run(
        [sys.executable, "-W", "error", "-W", torn, script],
        env=os.environ | programs,
        cwd=tmp_path,
        check=True,
    )
