"""The code of the README runs, block after block, as a reader would type it."""

import pathlib
import re

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_the_code_of_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert blocks
    namespace = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
