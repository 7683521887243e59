"""Benchmarks run at a tiny size, and what they time has the right gradient. Nothing is timed here.

Most run in this process, in float32 as they do as scripts, so that they share what is compiled.
"""

import ast
import inspect
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from matplotlib.figure import Figure

import metajax as mj

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import alphabets  # noqa: E402
import attribution  # noqa: E402
import clustering  # noqa: E402
import damage  # noqa: E402
import episodes  # noqa: E402
import few_shot  # noqa: E402
import fusions  # noqa: E402
import gpu  # noqa: E402
import growth  # noqa: E402
import harness  # noqa: E402
import jax_maml  # noqa: E402
import ladder  # noqa: E402
import memory  # noqa: E402
import one_shot  # noqa: E402
import optimizers  # noqa: E402
import processes  # noqa: E402
import real_tables  # noqa: E402
import ruler  # noqa: E402
import train_celo2  # noqa: E402
import train_tables  # noqa: E402
import workloads  # noqa: E402

SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))
NO_CLASSES = {
    "attention",
    "attribution",
    "attribution_cost",
    "bilevel",
    "damage",
    "devices",
    "differentiate",
    "episodes",
    "fast_weights",
    "feed",
    "fuzz",
    "fuzz-before",
    "growth",
    "kills",
    "memory",
    "memory_long",
    "missing",
    "optimizers",
    "peers-w1",
    "peers-w2",
    "peers-w2-32-tasks",
    "processes",
    "real_tables",
    "recall",
    "replay",
    "signal_to_noise",
    "sinusoid",
    "subsets",
    "sweeps",
    "task_modes",
    "value_intervals",
}
"""Results without a split of classes: of time, of functions, or of classes seen in training."""
HEADER = {"commit", "versions", "xla_flags", "device", "threads", "seed"}


@pytest.fixture
def as_script():
    """The settings of a script, in place of those of the suite."""
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def as_script_in_float64():
    """Those in which gradients can be compared."""
    with jax.numpy_rank_promotion("allow"):
        yield


def run_here(module, folder, *options):
    """The result file of a tiny run in this process."""
    module.main(module.parser.parse_args(["--tiny", "--out", str(folder), *options]))
    return read(folder / f"{module.__name__}.json")


def run_script(name, folder, *options, result=None):
    """(result file, what is printed) of a tiny run in a process of its own."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, f"{name}.py", "--tiny", "--out", folder, *options]
    done = subprocess.run(
        command, cwd=FOLDER, env=os.environ | cache, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return read(folder / f"{result or name}.json"), done.stdout


def read(path):
    """A result file, whose header is checked."""
    report = json.loads(path.read_text())
    assert report.keys() >= HEADER
    assert report["versions"]["jaxlib"]
    return report


def dotted_names(tree):
    """Names of the library that a script uses, such as "mj.data.episodes"."""
    aliases = {"mj": "metajax"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "metajax":
            for alias in node.names:
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    yield from aliases.values()
    for node in ast.walk(tree):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if parts and isinstance(node, ast.Name) and node.id in aliases:
            yield ".".join([aliases[node.id], *reversed(parts)])


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_uses_public_names_of_the_library_only(name):
    for dotted in dotted_names(ast.parse((FOLDER / f"{name}.py").read_text())):
        value = mj
        for part in dotted.split(".")[1:]:
            assert not part.startswith("_"), dotted
            assert hasattr(value, part), f"{dotted} does not exist"
            value = getattr(value, part)


@pytest.mark.parametrize(
    "path", sorted((FOLDER / "results").glob("*.json")), ids=lambda path: path.stem
)
def test_a_result_of_classes_has_the_digest_of_their_split(path):
    report = json.loads(path.read_text())
    digests = jax.tree.leaves([report.get("digest", []), report.get("digests", [])])
    assert all(re.fullmatch("[0-9a-f]{12}", digest) for digest in digests)
    assert bool(digests) != (path.stem in NO_CLASSES)


def sinusoid_gradient(workload):
    """W1 without the library: a loop over tasks and one over steps."""

    def loss(weights, x, y):
        for layer in ("layers/0", "layers/1"):
            x = jax.nn.relu(x @ weights[f"{layer}/kernel"] + weights[f"{layer}/bias"][None])
        return ((x @ weights["head/kernel"] + weights["head/bias"][None] - y) ** 2).mean()

    def of_task(weights, task):
        support = [part[task] for part in workload.data["support"]]
        query = [part[task] for part in workload.data["query"]]
        adapted = weights
        for _ in range(workload.steps):
            slopes = jax.grad(loss)(adapted, *support)
            adapted = jax.tree.map(lambda w, g: w - workload.inner_rate * g, adapted, slopes)
        return loss(adapted, *query)

    def mean(weights):
        return sum(of_task(weights, task) for task in range(workload.tasks)) / workload.tasks

    return jax.jit(jax.grad(mean))(workload.weights)


def test_a_step_on_sinusoids_has_the_gradient_of_plain_jax():
    workload = workloads.double(workloads.TINY["W1"]())
    expected = sinusoid_gradient(workload)
    assert all(np.abs(leaf).max() > 0 for leaf in expected.values())
    for variant in jax_maml.variants(workload, plain=False).values():
        if "devices" in variant:  # these need a process of their own
            continue
        step, gradient, cost = jax_maml.build(workload, **variant)
        assert cost.keys() == {"trace_seconds", "compile_seconds", "temporary_bytes"}
        assert harness.difference(gradient(), expected) < 1e-12
        state = step() if "fuse" in variant else step()[0]
        assert state.step == variant.get("fuse", 1)


def test_a_step_on_images_has_the_gradient_of_plain_jax(as_script):
    workload = workloads.TINY["W2"]()
    step, gradient, _ = jax_maml.build(workload)
    ours = gradient()
    assert step()[0].step == 1
    shapes = {name: leaf.shape for name, leaf in workload.weights.items()}
    assert {name: leaf.shape for name, leaf in ours.items()} == shapes
    assert all(np.abs(leaf).max() > 0 for leaf in ours.values())
    _, plain, _ = jax_maml.build(workload, lower="native")
    assert harness.difference(plain(), ours) < 1e-4


@pytest.mark.parametrize("lower", jax_maml.LOWERINGS)
def test_every_lowering_is_the_same_convolution(lower):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 4, 3))
    kernel = rng.normal(size=(3, 3, 3, 2))
    layer = jax_maml.Convolution(kernel, jax_maml.LOWERINGS[lower])
    expected = jax_maml.native(x, kernel)
    np.testing.assert_allclose(layer(x), expected, atol=1e-12)


def test_the_comparison_with_peers_names_what_is_missing_and_goes_on(tmp_path):
    options = ["--workloads", "W1", "W9", "--peers", "l2l"]
    report, printed = run_script("peers", tmp_path, *options, result="peers-w1")
    assert "There is no workload 'W9'" in printed
    assert "There is no peer 'l2l'" in printed
    names = [row["implementation"] for row in report["rows"]]
    assert names == ["metajax", "metajax, `mixed_mode()`"]
    assert all(row["workload"] == "W1" and row["gradient_error"] < 1e-12 for row in report["rows"])
    assert all(row["ratio"] is None for row in report["rows"])  # there is no peer


def test_devices_and_processes_compute_their_own_tasks_and_agree(tmp_path):
    # `fit` on devices and in processes is in test_training_meshes.py.
    options = ["--devices", "2", "--processes", "2", "--fits", "no", "--workloads", "W1", "W9"]
    report, printed = run_script("devices", tmp_path, *options)
    assert "There is no workload 'W9'" in printed
    strong, weak = report["rows"][:2], report["rows"][2:]
    assert [row["tasks"] for row in (*strong, *weak)] == [8, 8, 8, 8]
    for row in (*strong, *weak):
        assert row["tasks_on_a_device"] == 4
        assert row["messages"] == {"all-reduce": 1}
    assert [row["processes"] for row in strong] == [1, 2]
    assert all(row["gradient_error"] < 1e-12 and row["rounding"] < 1e-3 for row in strong)


def test_a_sweep_is_the_loop_in_one_call(tmp_path):
    report, _ = run_script("sweeps", tmp_path)
    whole, halved, loop = report["rows"]
    np.testing.assert_allclose(whole["errors"], loop["errors"], rtol=1e-4)
    assert whole["best run"] == loop["best run"]
    assert halved["steps"] == 4 * 2 + 2 * 2 + 4 < whole["steps"] == loop["steps"] == 4 * 8


@pytest.mark.usefixtures("packs")
def test_one_shot_arms_are_trained_and_tested(tmp_path, as_script, monkeypatch):
    plain = one_shot.Recipe(widths=(4, 4, 4, 4))
    one = plain._replace(
        places=7, shift=1, pairs=True, strokes=True, transform="strong", turned=True
    )
    arms = {"plain": plain, "everything": one._replace(copies=1, nets=2)}
    monkeypatch.setattr(one_shot, "ARMS", arms)
    monkeypatch.setattr(one_shot, "CHOSEN", "plain")
    report = run_here(one_shot, tmp_path, "--arms", "--final")
    assert list(report["arms"]) == list(arms) and list(report["final"]) == ["plain"]
    for row in report["arms"].values():
        assert len(row["alphabets"]) == 1 and 0 < row["errors"][0] <= 100
    assert list(report["final"]["plain"]["alphabets"]) == ["images_evaluation/Tibetan"]


def test_features_that_moved_by_one_place_are_similar_where_they_may_shift():
    recipe = one_shot.Recipe(places=7, shift=1)
    image = jax.random.normal(jax.random.key(0), (1, 9, 9, 3))
    here, there, apart = (image[:, 1 + move : 8 + move, 1:8].reshape(1, -1) for move in (0, 1, -1))
    assert one_shot.similarity(recipe, here, here) == 0
    still = recipe._replace(shift=0)
    expected = -((here - there) ** 2).sum() / 49
    np.testing.assert_allclose(one_shot.similarity(still, here, there), [[expected]], rtol=1e-5)
    moved = one_shot.similarity(recipe, here, there)[0, 0]
    np.testing.assert_allclose(moved, one_shot.similarity(recipe, there, here)[0, 0], rtol=1e-5)
    assert 0 > moved > expected / 2  # both ways; but for one row, whose places are at the edge
    assert one_shot.similarity(recipe, there, apart)[0, 0] < 2 * moved


def test_a_one_shot_task_has_one_drawer_for_each_part():
    names = [f"Greek/{number}" for number in range(6)]
    rows = mj.data.dataset(np.arange(6 * 20), np.arange(6 * 20) // 20, names=names)
    task = one_shot.one_drawer_each(5)(rows, jax.random.key(0))
    drawers = [set((part.x % 20).tolist()) for part in (task.support, task.query)]
    assert [len(one) for one in drawers] == [1, 1] and drawers[0] != drawers[1]
    np.testing.assert_array_equal(task.support.x // 20, task.query.x // 20)


def test_directions_of_strokes_tell_lines_from_columns():
    line = jnp.zeros((28, 28, 1)).at[14, 4:24].set(1.0)
    level = one_shot.directions(line)[14, 14]
    upright = one_shot.directions(line.transpose(1, 0, 2))[14, 14]
    np.testing.assert_allclose(level, -upright, atol=1e-6)
    assert abs(level[0]) > 0.9


@pytest.mark.usefixtures("packs")
def test_the_ladder_compares_learners_on_the_same_tasks(tmp_path, as_script, monkeypatch):
    vectors = lambda texts: np.eye(8, dtype=np.float32)[[len(text) % 8 for text in texts]]
    monkeypatch.setattr(mj.nets, "sentence_features", vectors)
    report = run_here(ladder, tmp_path)
    assert [row["trained on"] for row in report["rows"]] == (
        ["letters"] * 4 + ["Omniglot"] * 4 + ["CLINC150"] * 2
    )
    for row in report["rows"]:
        assert row["frozen features"]["minus frozen features"] == [0, 0]
        assert 0 <= row["ProtoNets"]["accuracy"][0] <= 100
    assert all(0 < one < 1 for one in report["diversity"].values())


@pytest.mark.usefixtures("packs")
def test_attributions_are_scored_and_drawn(tmp_path, as_script, monkeypatch):
    vectors = lambda texts: np.eye(8, dtype=np.float32)[[len(text) % 8 for text in texts]]
    monkeypatch.setattr(mj.nets, "sentence_features", vectors)
    few = attribution.intents(20, 5)
    assert few.train.x.shape == (20, 8) and few.test.x.shape == (5, 8) and few.classes == 50
    monkeypatch.setattr(attribution, "PROBLEMS", {"digits": attribution.digits})
    parts = run_here(attribution, tmp_path)
    report = {name: parts[name]["found"] for name in attribution.PARTS}
    assert next(iter(report["lds"]["digits"])) == "attribute"
    assert [row["wrong"] for row in report["labels"]["digits"]] == [0.1, 0.4]
    assert [row["activation"] for row in report["smoothness"]] == ["relu", "tanh"]
    assert [row["change"] for row in report["changes"]] == ["none", "convolution, max-pooled"]
    assert (tmp_path / "attribution.png").exists()


@pytest.mark.usefixtures("packs")
def test_attributions_are_timed_against_trainings_and_pytorch(tmp_path):
    report, _ = run_script("attribution_cost", tmp_path)
    assert report["cost"][0]["trainings"] > 0
    assert all(row["difference"] < 1e-3 for row in report["peers"])


@pytest.mark.usefixtures("packs")
def test_nets_read_beyond_the_trained_length(tmp_path):
    report, _ = run_script("reading", tmp_path, "--data", "strokes")
    found = report["found"]["strokes"]
    rows = {row["row"]: row for row in found["rows"]}
    assert len(rows) == 11 and rows["window alone"]["difference"]["4 to 8"] == [0, 0]
    parameters = [row["parameters"] for row in rows.values() if "parameters" in row]
    assert max(parameters) < 1.04 * min(parameters)
    assert all(len(row["losses"]) == 16 for row in rows.values())
    assert len(found["gains"]) == 6 and (tmp_path / "reading.png").exists()


SCOPES = ("distance", "energy", "neighbour", "probability")


def test_the_accuracy_of_single_tasks_is_predicted(tmp_path):
    report, _ = run_script("single_tasks", tmp_path, "--data", "letters", "--heads", "class means")
    found = report["rows"]["letters"]["class means"]
    assert set(found["2"]["out of scope"]) == {*SCOPES, "learned"}
    assert set(found["2"]["calibration"]) == {"none", "shared", "predicted", "own"}
    assert set(found["1"]["predictions"]) == {"constant", "learned"}
    assert set(found["2"]["predictions"]) == {"constant", "learned", "held out"}
    assert found["1"]["sets"]["size"] == [5, 0]  # of no usable example


def test_layers_of_fast_weights_are_timed(tmp_path):
    report, _ = run_script("fast_weights", tmp_path)
    assert [row["form"] for row in report["chunks"]] == ["dual form", "token by token", ""]
    assert len(report["lengths"]) == 5 and len(report["strategies"]) == 6


@pytest.mark.usefixtures("packs")
def test_a_stream_of_characters_is_learned_and_forgotten(tmp_path):
    report, _ = run_script("continual", tmp_path)
    assert [row["learner"] for row in report["rows"]][3] == "OML"
    for row in report["rows"]:
        assert np.shape(row["matrix"]) == (2, 2)
        assert 0 <= row["accuracy"][0] <= 100
    assert report["rows"][0]["minus class means"] == [0, 0]
    assert (tmp_path / "continual.png").exists()


def test_signal_to_noise_is_set_against_the_gain(tmp_path):
    report, _ = run_script("signal_to_noise", tmp_path)
    assert len(report["rows"]) == 2 and len(report["correlation"]) == 2
    assert all(one["ratio"] >= 0 for row in report["rows"] for one in row["seeds"])
    assert (tmp_path / "signal_to_noise.png").exists()


def test_attention_in_chunks_is_attention(tmp_path):
    report, _ = run_script("attention", tmp_path)
    assert [row["way"] for row in report["rows"]] == 5 * ["all at once"] + 5 * ["in chunks"]
    assert max(row["difference"] for row in report["rows"]) < 1e-5


def test_replay_has_the_gradient_of_one_program(tmp_path):
    report, _ = run_script("replay", tmp_path)
    norms = {row["way"]: row["norm"] for row in report["rows"]}
    np.testing.assert_allclose(norms["unroll(remat=2)"], norms["replay"], rtol=1e-4)
    assert norms["replay, streamed"] > 0


def test_strategies_agree_and_mixed_mode_takes_less_memory(tmp_path, as_script_in_float64):
    report = run_here(memory, tmp_path, "--repeats", "1")
    rows = {row["implementation"]: row for row in report["rows"]}
    assert rows.keys() < memory.STRATEGIES.keys()
    assert all(row["gradient_error"] < 1e-10 for row in rows.values())
    assert 3 * rows["`mixed_mode()`"]["temporary_bytes"] < rows["`unroll()`"]["temporary_bytes"]
    assert (tmp_path / "memory.png").exists()


def test_growth_is_measured_and_drawn(tmp_path, as_script, monkeypatch):
    """The transformer is compiled; of the images only the workloads are looked at."""
    built = []

    def build(workload):
        built.append(workload)
        return lambda: 0, None, {"temporary_bytes": len(built)}

    monkeypatch.setattr(jax_maml, "build", build)
    report = run_here(growth, tmp_path, "--repeats", "2")
    assert [*report["fits"]] == [*growth.AXES]
    numbers = {axis: [] for axis in growth.AXES}
    for row in report["rows"]:
        numbers[row["workload"]].append(row["number"])
    assert numbers == {axis: [*values] for axis, values in growth.TINY.items()}
    sizes = [
        (one.tasks, len(one.data["support"][1][0]), one.steps, one.weights["norms/0/scale"].size)
        for one in built
    ]
    shots = 5
    assert sizes[0:2] == [(2, shots, 3, 4), (4, shots, 3, 4)]
    assert sizes[2:4] == [(8, shots, 3, 4), (8, 2 * shots, 3, 4)]
    assert sizes[4:6] == [(8, shots, 1, 4), (8, shots, 2, 4)]
    assert sizes[6:8] == [(8, shots, 3, 4), (8, shots, 3, 8)]
    assert (tmp_path / "growth.png").exists()


def test_episodes_are_counted(tmp_path, as_script):
    report = run_here(episodes, tmp_path, "--repeats", "1")
    assert len(report["rows"]) == 5
    assert report["rows"][0]["implementation"] == "`np.take`"
    assert report["rows"][0]["ratio"] == 1
    assert report["share"]["share"] > 0


def test_episodes_in_numpy_have_rows_of_one_turned_class():
    x = np.arange(3 * 20 * 4).reshape(3, 20, 2, 2, 1)
    tasks = episodes.in_numpy(x, np.random.default_rng(0), tasks=2)
    assert tasks.shape == (2, 5, 16, 2, 2, 1)
    classes = tasks.max(axis=(3, 4, 5)) // 80
    assert (classes == classes[:, :, :1]).all()


def test_tasks_are_fed(tmp_path):
    report, _ = run_script("feed", tmp_path)
    assert len(report["held_bytes"]) == 10
    assert {row["implementation"] for row in report["rows"]} == {"resident", "grain"}


def run_process(name, folder, *options):
    """The report of a benchmark that runs in a process of its own."""
    command = [sys.executable, FOLDER / f"{name}.py", "--out", folder, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / f"{name}.json").read_text())


def test_wrong_arguments_are_counted(tmp_path):
    report = run_process("fuzz", tmp_path, "--calls", "40", "--processes", "1")
    assert sum(report["outcomes"].values()) == report["calls"] == 40
    assert report["outcomes"]["hang"] == 0
    assert report["outcomes"]["inside"] <= 2
    assert report["outcomes"]["refused"] > 20


def test_a_run_that_is_killed_goes_on(tmp_path):
    report = run_process("kills", tmp_path, "--kills", "1", "--devices", "1")
    (row,) = report["rows"]
    assert row["kills"] >= 1
    assert row["failed"] == 0
    assert row["errors"] == []


def test_damaged_files_are_right_or_refused(tmp_path, as_script):
    report = run_here(damage, tmp_path)
    assert [row["target"] for row in report["rows"]] == list(damage.TARGETS)
    for row in report["rows"]:
        assert sum(row[outcome] for outcome in damage.OUTCOMES) == row["number"] == 3
        assert row["silent"] == row["hang"] == row["other"] == 0


def test_every_fusion_has_a_net():
    values = vars(mj.nets.fusion).items()
    classes = {name for name, value in values if inspect.isclass(value)}
    modules = {name for name in classes if issubclass(vars(mj.nets.fusion)[name], nnx.Module)}
    assert fusions.FUSIONS.keys() == modules | {"mean", "total", "maximum"}
    setting = fusions.made()
    nets = fusions.nets_of(setting, fusions.FUSIONS)
    assert [net.fusion for net in nets.values()] == [*fusions.FUSIONS]

    def features(net):
        embed, params = fusions.make_net(setting, net)
        return embed(params, setting.test.x)

    for net in nets.values():
        shape = jax.eval_shape(lambda net=net: features(net)).shape
        assert shape == (len(setting.test.y), fusions.WIDTH)


def test_fusions_are_trained_and_measured_without_each_modality(tmp_path, as_script):
    options = ["--tiny", "--out", str(tmp_path), "--data", "made", "--fusions", "Late"]
    fusions.main(fusions.parser.parse_args(options))
    row = read(tmp_path / "fusions.json")["rows"]["made"]["Late"]
    assert row["without"].keys() == {"audio", "image", "text"}
    assert all(0 <= accuracy <= 100 for accuracy, _ in [row["all"], *row["without"].values()])


def test_encoders_of_every_kind_stand_beside_the_first():
    """Their features of two examples; the graph and the sounds as the data sets have them."""
    rngs = nnx.Rngs(0)
    edges = np.array([[0, 2], [1, 2]])
    examples = {
        "image": (fusions.IMAGES, jnp.ones((2, 28, 28, 1))),
        "stroke": (fusions.series(4), jnp.ones((2, 16, 4))),
        "audio": (fusions.SOUNDS, jnp.ones((2, 4000))),
        "definition": (fusions.TEXTS, jnp.ones((2, 48), jnp.int32)),
        "graph": ({"GCN": lambda rngs: fusions.Nodes(edges, 3, rngs)}, jnp.array([0, 2])),
    }
    for makers, x in examples.values():
        for make in makers.values():
            encoder = make(rngs)
            assert jax.eval_shape(lambda x, net=encoder: net(x), x).shape == (2, fusions.WIDTH)
    setting = fusions.made()._replace(encoders={name: of for name, (of, _) in examples.items()})
    rows = fusions.nets_of(setting, ["mean"])
    assert len(rows) == 1 + 2 + 3 + 2 + 3
    assert rows["mean, GRU"].encoders["stroke"] == "GRU"
    assert rows["mean, GRU"].encoders["image"] == "Conv4"


def test_neural_processes_stand_beside_the_exact_one(tmp_path, as_script, monkeypatch):
    monkeypatch.setattr(processes, "NETS", {"CNP": processes.NETS["CNP"]})
    processes.main(processes.parser.parse_args(["--tiny", "--out", str(tmp_path)]))
    rows = json.loads((tmp_path / "processes.json").read_text())["rows"]
    exact, constant, net = rows
    assert [row["net"] for row in rows] == ["exact", "constant", "CNP"]
    assert exact["log-likelihood"][0] > max(constant["log-likelihood"][0], net["log-likelihood"][0])
    assert 80 < exact["coverage"][0] < 98


def test_clusters_of_raw_pretrained_and_learned_features(tmp_path, as_script, monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(640, 3)).astype(np.float32)
    source = mj.data.dataset(x, np.arange(640) // 16)
    split = mj.data.draw_split(source.names, {"train": 25, "test": 15})
    train, test = (mj.data.select_part(source, split, part) for part in ("train", "test"))
    make = lambda outputs: mj.nets.MLP(3, (4,), outputs, rngs=nnx.Rngs(0))
    problem = clustering.Problem(train, test, make, split.digest)
    monkeypatch.setattr(clustering, "PROBLEMS", {"numbers": lambda: problem})
    clustering.main(clustering.parser.parse_args(["--tiny", "--out", str(tmp_path)]))
    rows = json.loads((tmp_path / "clustering.json").read_text())["results"]["numbers"]
    assert [row["features"] for row in rows[::2]] == ["raw", "pretrained", "learned from tasks"]
    for row in rows:
        assert -1 <= row["adjusted_rand"][0] <= 1


def test_real_tables_beside_the_estimators_of_scikit_learn(tmp_path, as_script):
    real_tables.main(real_tables.parser.parse_args(["--tiny", "--out", str(tmp_path)]))
    report = json.loads((tmp_path / "real_tables.json").read_text())
    of_classes, of_numbers = report["classification"], report["regression"]
    iris = of_classes["tables"]["sklearn iris"]
    assert iris["TableClassifier"]["log loss"] < iris["frequencies"]["log loss"]
    assert iris["rows"] == 150 and iris["columns"] == 4 and iris["classes"] == 3
    expected = iris["TableClassifier"]["AUC"] - iris["logistic regression"]["AUC"]
    found = of_classes["ours minus"]["logistic regression"]["AUC"][0]
    np.testing.assert_allclose(found, expected)
    diabetes = of_numbers["tables"]["sklearn diabetes"]
    assert diabetes["TableRegressor"]["R2"] > diabetes["mean"]["R2"]


@pytest.mark.parametrize("target", ["classes", "numbers"])
def test_the_net_for_tables_is_trained(target, tmp_path, as_script, monkeypatch):
    shape = train_tables.Shape(rows=12, queries=8, columns=3, classes=2)
    monkeypatch.setattr(train_tables, "SHAPES", [shape])
    arguments = [target, "--steps", "2", "--out", str(tmp_path)]
    train_tables.main(train_tables.parser.parse_args(arguments))
    classes = 2 if target == "classes" else None
    shipped = nnx.to_pure_dict(nnx.state(mj.nets.trained_tables(classes), nnx.Param))
    names = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(shipped)
    }
    with np.load(tmp_path / f"table_{target}.npz") as saved:
        assert {name: saved[name].shape for name in saved.files} == names


@pytest.mark.parametrize("option", ["", "--no-augmentation", "--no-normalisation"])
def test_the_learned_optimizer_is_trained(option, tmp_path, as_script, monkeypatch):
    for name, value in {"PAIRS": 2, "TRUNCATION": 2, "HORIZON": 4, "WIDTHS": (64, 4, 10)}.items():
        monkeypatch.setattr(train_celo2, name, value)
    arguments = ["--steps", "1", "--out", str(tmp_path), *option.split()]
    train_celo2.main(train_celo2.parser.parse_args(arguments))
    with np.load(tmp_path / "celo2.npz") as saved:
        assert [saved[f"kernel{number}"].shape for number in range(3)] == [(30, 8), (8, 8), (8, 1)]
        assert all(np.isfinite(saved[name]).all() for name in saved.files)


def test_optimizers_are_tuned_and_drawn(tmp_path, as_script, monkeypatch, packs):
    full = optimizers.optimizers
    monkeypatch.setattr(
        optimizers, "optimizers", lambda folder: {k: full(folder)[k] for k in ("Muon", "Celo2")}
    )
    options = ["--tiny", "--out", str(tmp_path), "--problems", "characters", "--seeds", "1"]
    optimizers.main(optimizers.parser.parse_args(options))
    report = json.loads((tmp_path / "optimizers.json").read_text())
    for row in report["characters"]["rows"].values():
        assert row["setting"]["rate"] in optimizers.RATES
        (curve,) = row["curves"]
        assert np.isfinite(curve).all() and len(curve) == 1
    assert (tmp_path / "optimizers.png").stat().st_size > 1000
    optimizers.main(optimizers.parser.parse_args(options))  # goes on where it was: at the end
    assert json.loads((tmp_path / "optimizers.json").read_text()) == report


def test_the_character_transformer_does_not_see_the_future():
    net = optimizers.CharacterTransformer(9, 8, 2, nnx.Rngs(0))
    x = jnp.arange(12).reshape(2, 6) % 9
    found, other = net(x), net(x.at[:, 4].set(0))
    np.testing.assert_allclose(found[:, :4], other[:, :4], rtol=1e-6)
    assert (abs(found[:, 4:] - other[:, 4:]).max(axis=(0, 2)) > 1e-6).all()


def test_an_algorithm_by_name_is_trained_and_the_others_keep_their_rows(tmp_path, as_script):
    def run(*names):
        options = ["--tiny", "--glyphs", "--out", str(tmp_path), "--algorithms", *names]
        few_shot.main(few_shot.parser.parse_args(options))
        return json.loads((tmp_path / "few_shot_glyphs.json").read_text())

    first = run("protonets")
    row = first["rows"]["protonets"]
    assert 0 <= row["accuracy"][0] <= 100
    assert row["steps"] > 0
    assert len(first["pretrained of each task"]) == 4
    both = run("r2d2")
    assert both["rows"]["protonets"] == row
    assert set(both["rows"]) == {"protonets", "r2d2"}
    with pytest.raises(SystemExit, match=r"There is no \['mamal'\]; the names are"):
        run("mamal")


@pytest.mark.parametrize("name", few_shot.ALGORITHMS)
def test_an_algorithm_by_name_has_a_net_and_a_loss(name, as_script):
    row = few_shot.ALGORITHMS[name]
    for make, shots in ((row.make, row.shots), (row.test or row.make, 1)):
        learner = make(4)
        batch = mj.Batch(jnp.ones((5 * shots, 28, 28, 1)), jnp.tile(jnp.arange(5), shots))
        task = mj.Task(batch, batch)
        loss, metrics = jax.eval_shape(learner.task_loss, learner.params, task, jax.random.key(0))
        assert loss.shape == metrics["accuracy"].shape == ()


def test_alphabets_are_learned(tmp_path, packs, as_script, monkeypatch):
    monkeypatch.setattr(alphabets, "large_alphabets", few_of(alphabets.large_alphabets))
    report = run_here(alphabets, tmp_path)
    assert all(len(row["alphabets"]) == 2 and row["accuracy"] > 5 for row in report["rows"])
    assert (tmp_path / "alphabets.png").exists()


def few_of(large_alphabets):
    """The first two alphabets, of the 20 that there are."""

    def few(evaluation):
        names = large_alphabets(evaluation)
        assert len(names) == 20
        return names[:2]

    return few


def test_the_published_ruler_is_drawn():
    axis = Figure().subplots()
    rows = json.loads((FOLDER / "results" / "ruler.json").read_text())["rows"]
    mine = [row for row in rows if row["data"] == "digits"]
    ruler.draw(axis, "digits", mine)
    names = [label.get_text() for label in axis.get_yticklabels()]
    shown = [name for name in mine[0]["accuracy"] if name != "best single"]
    assert names == shown and axis.get_title().endswith("5-way")


def test_the_run_for_a_gpu_runs_here(tmp_path):
    report, _ = run_script("gpu", tmp_path, "--repeats", "1", result="device-cpu")
    rows = report["rows"]
    assert [row["workload"] for row in rows] == ["W1", "W2, 32 tasks", "W3, large"]
    assert all(row["seconds"] > 0 and row["gradient_error"] == 0 for row in rows)


class MadeProcess:
    """What `harness.Process` measures of a gradient that is given."""

    def __init__(self, gradient):
        self.gradient = gradient

    def facts(self):
        if self.gradient is None:
            return None
        return {"gradient": {"w": np.array(self.gradient)}, "cost": {"peak_bytes": None}}

    def tell(self):
        pass

    def seconds(self):
        return self.gradient


def test_what_fails_on_a_gpu_is_left_out_and_the_rest_is_compared(monkeypatch, capsys):
    monkeypatch.setattr(harness, "Process", MadeProcess)
    monkeypatch.setattr(harness, "close", lambda process: None)
    rows = gpu.measure("W1", {"bad": [None], "first": [2.0], "second": [3.0]}, repeats=1)
    assert [row["implementation"] for row in rows] == ["first", "second"]
    assert [row["gradient_error"] for row in rows] == [0, 0.5]
    assert [row["ratio"] for row in rows] == [1, 2 / 3]
    assert "W1, bad: failed" in capsys.readouterr().out


def test_a_line_is_fitted_to_what_grows_as_a_line():
    rows = [{"number": n, "seconds": 2 + 3 * n} for n in (1, 2, 4)]
    assert growth.fit("tasks", rows) == pytest.approx({"a": 2, "b": 3, "residual": 0}, abs=1e-9)
    rows = [{"number": n, "seconds": 5 * n**2} for n in (1, 2, 4)]
    assert growth.fit("width", rows) == pytest.approx({"a": 5, "b": 2, "residual": 0}, abs=1e-9)


def test_a_median_has_an_interval():
    row = harness.median(np.arange(101.0).tolist())
    assert row["seconds"] == 50
    assert row["interval"][0] < 50 < row["interval"][1]
    assert harness.median([3.0, 1.0, 2.0]) == {"seconds": 2.0, "interval": [1.0, 3.0], "repeats": 3}


def test_labels_are_chosen(tmp_path):
    report, _ = run_script("labels", tmp_path, "--data", "letters", "--heads", "class means")
    found = report["rows"]["letters"]["class means"]
    assert set(found) == {"none", "random", "uncertainty", "coverage", "learned"}
    assert found["random"]["minus random"] == [0, 0]


def test_modalities_are_acquired(tmp_path):
    report, _ = run_script("acquire", tmp_path)
    assert set(report["rows"]) == {
        "nothing",
        "definition",
        "image",
        "stroke",
        "definition + image",
        "definition + stroke",
        "image + stroke",
    }
    for ways in report["rows"].values():
        best = ways["hindsight"]["accuracy"][0]
        assert best >= max(ways[name]["accuracy"][0] for name in ("random", "Shapley", "gains"))
    one_left = report["rows"]["image + stroke"]
    np.testing.assert_allclose(one_left["gains"]["minus random"], 0, atol=1e-6)


def test_rare_tasks_are_trained_in_six_ways(tmp_path):
    report, _ = run_script("rare_tasks", tmp_path)
    assert len(report["rows"]) == 6
    assert all(row["worst tenth"]["accuracy"][0] >= 0 for row in report["rows"].values())


def test_intervals_of_values_are_counted(tmp_path):
    report, _ = run_script("value_intervals", tmp_path)
    assert set(report["rows"]) == {"ridge", "Gaussian process", "neural process"}
    for tests in report["rows"].values():
        assert {"held out", "validation"} <= set(tests["rougher"])
