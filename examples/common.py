"""What the examples share: the command line, the header of a report, and numbers for people."""

import argparse
import json
import os
import pathlib
import platform
import tempfile

import jax
import jax.numpy as jnp
import jaxlib
import matplotlib.pyplot as plt
import numpy as np

import metajax as mj

plt.rcParams.update(mj.plots.STYLE)


def run(main, config, tiny, *options, description=None):
    """Runs a script from the command line, with --tiny, --out and a few settings of its config.

    Args:
        main: function of (config, folder of the files that it writes).
        config: the settings of a full run, a NamedTuple.
        tiny: the same for a run that only shows that the script works.
        *options: fields of the config that the command line may set.
        description: what `--help` shows, the docstring of the script.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="only to see that the script runs")
    parser.add_argument("--out", type=pathlib.Path, default=".", help="folder of what is written")
    for name in options:
        default = getattr(config, name)
        if isinstance(default, bool):
            parser.add_argument(f"--{name}", action="store_true")
        else:
            parser.add_argument(f"--{name}", type=type(default), help=f"by default {default}")
    given = vars(parser.parse_args())
    out = given.pop("out")
    out.mkdir(parents=True, exist_ok=True)
    chosen = tiny if given.pop("tiny") else config
    main(chosen._replace(**{name: value for name, value in given.items() if value}), out)


def header():
    """What a reader of a report needs to know about the machine and the software."""
    return {
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "device": f"{jax.devices()[0].device_kind}, {platform.machine()}",
    }


def write_report(path, report):
    """Writes a report as JSON, and returns it as a reader of that file sees it."""
    text = json.dumps(report, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    return json.loads(text)


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


def cell(value, digits=1):
    """A mean and half the width of its interval, as text, of [mean, half, ...]."""
    mean, half = value[:2]
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def difference(value, digits=1):
    """The same for a difference, with its sign."""
    mean, half = value[:2]
    return f"{mean:+.{digits}f} ± {half:.{digits}f}"


def shots_label(shots):
    """The words "1 shot", "5 shots" and so on, of a number or of its text."""
    return "1 shot" if int(shots) == 1 else f"{shots} shots"


def draw_accuracies(axes, by_shots, *, title, chance=None):
    """Draws {shots: {row: [mean, half the width of the interval] in percent}}."""
    measured = {}
    for shots, rows in by_shots.items():
        fractions = {row: (mean / 100, half / 100) for row, (mean, half) in rows.items()}
        measured[shots_label(shots)] = fractions
    mj.plots.accuracies(axes, measured, chance=chance, title=title)


def draw_strokes(axes, points):
    """Draws pen strokes [points, (x, y, time, start)]: a line for each, coloured by time."""
    x, y, time, start = np.asarray(points).T
    for stroke in np.split(np.arange(len(x)), np.flatnonzero(start)[1:]):
        axes.plot(x[stroke], y[stroke], color="0.5", linewidth=1)
    axes.scatter(x, y, c=time, s=3)
    axes.set(xlim=(-1.5, 1.5), ylim=(1.5, -1.5), aspect="equal")
    axes.axis("off")


def draw_image(axes, image, title=""):
    """Draws one image [height, width, 1] whose large values are ink."""
    axes.imshow(-np.asarray(image, float)[:, :, 0], cmap="gray")
    axes.set_title(title, fontsize=9)
    axes.axis("off")


OF_ONE_NET = (
    "95 % intervals over test tasks of one trained net: another training may differ by more"
)


def save(figure, path, about):
    """Writes below a figure what its intervals are over, and saves it."""
    figure.supxlabel(about, fontsize=8, color="0.4")
    figure.savefig(path)
    plt.close(figure)


def finish(out, name, report, plot):
    """Writes NAME.json, draws NAME.png from what a reader of that file sees, and says so."""
    plot(write_report(out / f"{name}.json", report), out / f"{name}.png")
    print(f"See {name}.png and {name}.json in {out}.")
