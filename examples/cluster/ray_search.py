"""The search of optuna_search.py as trials of Ray Tune, which starts them on the workers it has.

Trials that are worse than the others at the same step are stopped (asynchronous halving). Every
worker needs metajax, and this folder at the same path.

    pip install "ray[tune]"
    python examples/cluster/ray_search.py --trials 20 --at_once 2    # this machine
    RAY_ADDRESS=host0:6379 python examples/cluster/ray_search.py     # a cluster of Ray
"""

import argparse
import pathlib
import sys

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--trials", type=int, default=20)
parser.add_argument("--at_once", type=int, help="trials that run at once; by default one a core")
parser.add_argument("--gpus", type=float, default=0, help="of each trial")
parser.add_argument("--steps", type=int, default=2000)

FOLDER = str(pathlib.Path(__file__).parent)


def trial(setting, steps):
    """One training, in a process of its own."""
    from ray import tune

    sys.path.insert(0, FOLDER)
    import optuna_search

    def report(step, error):
        tune.report({"error": error, "step": step})

    optuna_search.error(setting["outer_rate"], setting["inner_rate"], steps, report)


def main(options):
    from ray import tune

    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(trial, steps=options.steps), {"cpu": 1, "gpu": options.gpus}
        ),
        param_space={
            "outer_rate": tune.loguniform(1e-4, 1e-1),
            "inner_rate": tune.loguniform(1e-3, 1.0),
        },
        tune_config=tune.TuneConfig(
            metric="error",
            mode="min",
            num_samples=options.trials,
            max_concurrent_trials=options.at_once,
            scheduler=tune.schedulers.ASHAScheduler(
                time_attr="step", max_t=options.steps, grace_period=max(1, options.steps // 4)
            ),
        ),
    )
    best = tuner.fit().get_best_result()
    print(f"best {best.metrics['error']:.3f} with {best.config}")


if __name__ == "__main__":
    main(parser.parse_args())
