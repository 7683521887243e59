"""What the examples share: command line options, the header of a report, and numbers in percent."""

import argparse
import json
import os
import pathlib
import platform
import tempfile

import jax
import jax.numpy as jnp
import jaxlib

import metajax as mj


def parser(description, files):
    """A parser of command line options that has --out and --tiny.

    Args:
        description: what `--help` shows, the docstring of the script.
        files: the names of the files that the script writes, for the help of --out.
    """
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=pathlib.Path, default=pathlib.Path(), help=f"folder of {files}")
    made.add_argument(
        "--tiny", action="store_true", help="tiny sizes: only to see that the script runs"
    )
    return made


def parse(made):
    """The options of the command line. The folder that --out names exists afterwards."""
    options = made.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def header():
    """What a reader of a report needs to know about the machine and the software."""
    return {
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "device": f"{jax.devices()[0].device_kind}, {platform.machine()}",
    }


def write_report(path, report):
    """Writes a report as JSON."""
    text = json.dumps(report, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def reuse_programs():
    """Makes XLA keep compiled programs on disk, so that a program made twice is compiled once.

    Use it where every split or fold builds the same programs anew. A cache that the user has set
    up stays as it is.

    Returns:
        The folder, which is deleted when the object is. None where the user has a cache.
    """
    if jax.config.jax_compilation_cache_dir:
        return None
    folder = tempfile.TemporaryDirectory()
    jax.config.update("jax_compilation_cache_dir", folder.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    return folder


def percent(fractions):
    """[mean, half the width of its 95 % interval] in percent, of an array of fractions."""
    summary = mj.summarize(jnp.asarray(fractions))
    return [100 * float(summary.mean), 100 * float(summary.interval)]


def fractions(rows):
    """{row: [mean, half width]} in percent as fractions, which `metajax.plots.accuracies` takes."""
    return {row: (mean / 100, half / 100) for row, (mean, half) in rows.items()}


def cell(value, digits=1):
    """A mean and half the width of its interval, as text, of [mean, half, ...]."""
    mean, half = value[:2]
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def difference(value, digits=1):
    """The same for a difference, with its sign."""
    mean, half = value[:2]
    return f"{mean:+.{digits}f} ± {half:.{digits}f}"


def shots_label(shots):
    """The words "1 shot", "5 shots" and so on."""
    return "1 shot" if shots == 1 else f"{shots} shots"
