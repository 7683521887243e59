"""The estimators of tables: scikit-learn's own checks, and cells and targets of every kind."""

import copy
import datetime
import pickle

import jax
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.datasets import load_diabetes, load_iris, load_wine
from sklearn.dummy import DummyClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_predict, cross_val_score
from sklearn.utils.estimator_checks import estimator_checks_generator

from metajax.estimators import TableClassifier, TableRegressor, tables

CHECKS = {
    "check_classifiers_classes",
    "check_classifiers_one_label",
    "check_classifiers_regression_target",
    "check_complex_data",
    "check_dict_unchanged",
    "check_dtype_object",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_estimators_empty_data_messages",
    "check_estimators_nan_inf",
    "check_estimators_pickle",
    "check_estimators_unfitted",
    "check_f_contiguous_array_estimator",
    "check_fit1d",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_n_features_in_after_fitting",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_pipeline_consistency",
    "check_positive_only_tag_during_fit",
    "check_regressors_int",
    "check_requires_y_none",
    "check_supervised_y_2d",
    "check_supervised_y_no_nan",
}
"""Those of scikit-learn's checks that ask something that no other test here asks. The others pass,
too: sklearn.utils.estimator_checks.check_estimator(TableClassifier())."""

SHAPES = {"rows": 60, "queries": 20}


def draws(seed=0):
    """Features [80, 4], whose first column tells the class, and y."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(80, 4))
    return x, (x[:, 0] + 0.3 * rng.normal(size=80) > 0).astype(int)


@pytest.mark.parametrize(
    "estimator", [TableClassifier(), TableRegressor()], ids=["classes", "numbers"]
)
def test_the_checks_of_scikit_learn(estimator):
    names = set()
    for one, check in estimator_checks_generator(estimator):
        name = getattr(check, "func", check).__name__
        if name in CHECKS:
            names.add(name)
            check(copy.deepcopy(one))
    assert len(names) >= 22


@pytest.mark.parametrize("load", [load_iris, load_wine])
def test_real_tables_are_classified(load):
    x, y = load(return_X_y=True)
    found = cross_val_predict(TableClassifier(), x, y, method="predict_proba")
    constant = cross_val_predict(DummyClassifier(), x, y, method="predict_proba")
    assert log_loss(y, found) < 0.25 * log_loss(y, constant)


def test_real_numbers_are_predicted_with_honest_deviations():
    x, y = load_diabetes(return_X_y=True)
    assert cross_val_score(TableRegressor(), x, y).mean() > 0.4  # a mean has 0
    mean, deviation = TableRegressor().fit(x[:200], y[:200]).predict(x[200:], return_std=True)
    assert 0.8 < (abs(y[200:] - mean) < 1.645 * deviation).mean() < 0.97  # 90 %
    moved = TableRegressor().fit(x[:200], 1e9 + 7 * y[:200]).predict(x[200:])
    np.testing.assert_allclose(moved, 1e9 + 7 * mean, rtol=1e-12, atol=1e-2)


def test_cells_of_every_kind_tell_the_class():
    x, y = draws()
    tells = x[:, 0] > 0
    day = datetime.date(2024, 1, 1)
    columns = {
        "text": np.where(tells, "yes", "no").astype(object),
        "boolean": tells,
        "category": pd.Categorical(np.where(tells, "a", "b")),
        "date": [day + datetime.timedelta(days=int(100 * cell)) for cell in x[:, 0]],
        "time": pd.to_datetime("2024-01-01") + pd.to_timedelta(x[:, 0], unit="s"),
        "duration": pd.to_timedelta(x[:, 0], unit="s"),
        "nullable": pd.array(np.round(100 * x[:, 0]), dtype="Int64"),
        "large": 1e12 + x[:, 0],
        "objects": (100 * x[:, 0]).astype(int).astype(object),
    }
    for name, cells in columns.items():
        frame = pd.DataFrame({"noise": x[:, 1], name: cells})
        if name == "boolean":
            frame[name] = frame[name].astype(object)
        frame.loc[[3, 70], name] = pd.NA if name in ("category", "nullable") else None
        made = TableClassifier().fit(frame[:60], y[:60])
        assert made.score(frame[60:], y[60:]) > 0.75, name
        assert list(made.feature_names_in_) == ["noise", name]


def test_what_was_not_seen_in_fit_is_missing():
    x, y = draws()
    frame = pd.DataFrame({"text": np.where(x[:, 0] > 0, "yes", "no"), "number": x[:, 1]})
    made = TableClassifier().fit(frame, y)
    new = pd.DataFrame({"text": ["perhaps", None], "number": [0.5, 0.5]})
    np.testing.assert_array_equal(*made.predict_proba(new))
    with pytest.raises(ValueError, match=r"had numbers in fit and has texts now.*'many'"):
        made.predict(pd.DataFrame({"text": ["yes"], "number": ["many"]}))
    with pytest.raises(ValueError, match=r"feature names should match.*\['b'\]"):
        TableClassifier().fit(frame[["number"]], y).predict(pd.DataFrame({"b": [1.0]}))


def test_dates_are_the_same_in_every_unit_and_zone():
    x, y = draws()
    times = np.datetime64("2024-01-01T00:00:00") + (1e4 * x[:, 0]).astype(int).astype("m8[s]")
    as_dates = lambda cells: pd.DataFrame({"time": cells})
    made = TableClassifier().fit(as_dates(times), y)
    expected = made.predict_proba(as_dates(times))
    zoned = pd.to_datetime(times).tz_localize("UTC").tz_convert("Asia/Tokyo")
    objects = np.array(pd.to_datetime(times).to_pydatetime(), object)
    for same in (times.astype("M8[ns]"), zoned, objects):
        np.testing.assert_array_equal(made.predict_proba(as_dates(same)), expected)
    assert made.score(as_dates(times), y) > 0.75
    durations = times - times.min()
    made = TableClassifier().fit(durations[:, None], y)
    expected = made.predict_proba(durations[:, None])
    found = made.predict_proba(durations.astype("m8[ms]").astype(object)[:, None])
    np.testing.assert_array_equal(found, expected)


def test_cells_of_another_kind_than_in_fit_are_refused():
    x, y = draws()
    kinds = {
        "numbers": x[:, 0],
        "dates": np.datetime64("2024-01-01") + np.arange(80),
        "durations": np.arange(80).astype("m8[D]"),
        "texts": np.where(y, "yes", "no"),
    }
    for kind, cells in kinds.items():
        made = TableClassifier().fit(pd.DataFrame({"a": cells}), y)
        for other, others in kinds.items():
            frame = pd.DataFrame({"a": others})
            if other == kind:
                made.predict(frame)
                continue
            with pytest.raises(ValueError, match=f"had {kind} in fit and has {other} now"):
                made.predict(frame)
        nothing = pd.DataFrame({"a": [None, np.nan]})
        np.testing.assert_array_equal(*made.predict_proba(nothing))


def test_numbers_of_any_size():
    x, y = draws()
    expected = TableClassifier().fit(x, y).predict_proba(x)
    for scale, shift in ((1e300, 0), (1e-300, 0), (1.0, 1e9)):
        found = TableClassifier().fit(scale * x + shift, y).predict_proba(scale * x + shift)
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_targets_of_every_kind():
    x, y = draws()
    for names in (np.array(["no", "yes"]), np.array([False, True]), np.array([7, -3])):
        made = TableClassifier().fit(x[:60], names[y[:60]])
        assert set(made.classes_) == set(names.tolist())
        assert made.score(x[60:], names[y[60:]]) > 0.75
    one = TableClassifier().fit(x, np.full(80, "only"))
    np.testing.assert_array_equal(one.predict_proba(x[:3]), np.ones((3, 1)))
    assert (one.predict(x[:3]) == "only").all()
    many = np.arange(80) // 2  # 40 classes of two rows
    made = TableClassifier().fit(many[:, None] + 0.01 * x[:, :1], many)
    assert made.score(many[:, None] + 0.01 * x[:, 1:2], many) > 0.3  # by chance 1 / 40
    for number in (3.0, 1e-200, -1e200):
        mean, deviation = TableRegressor().fit(x, np.full(80, number)).predict(x, return_std=True)
        np.testing.assert_allclose(mean, number, rtol=1e-12)
        assert (deviation == 0).all()
    numbers = TableRegressor().fit(x, x[:, 0]).predict(x)
    for scale in (1e200, 1e-200):
        found = TableRegressor().fit(x, scale * x[:, 0]).predict(x)
        np.testing.assert_allclose(found / scale, numbers, rtol=1e-5, atol=1e-6)
    for missing in (["a", None], [pd.NA, "a"]):
        with pytest.raises(ValueError, match=r"NaN|missing"):
            TableClassifier().fit(x[:2], np.array(missing, object))
    with pytest.raises(ValueError, match="dates or durations"):
        TableRegressor().fit(x, np.datetime64("2024-01-01") + np.arange(80))
    for wrong in (np.stack([y, y], 1), np.where(y, np.nan, 1.0)):
        with pytest.raises(ValueError, match=r"1d array|NaN"):
            TableRegressor().fit(x, wrong)


def test_categories_keep_their_order():
    """Of levels that no labelled row has, the order tells the number."""
    levels = list("kcfajehbdgil")
    places = np.repeat(np.arange(12), 6)
    cells = pd.Categorical([levels[place] for place in places], categories=levels, ordered=True)
    frame, y = pd.DataFrame({"size": cells}), places.astype(float)
    known = places % 3 != 1
    model = TableRegressor().fit(frame[known], y[known])
    assert abs(model.predict(frame[~known]) - y[~known]).max() < 1
    one_level = model.predict(frame[:6].reset_index(drop=True))
    np.testing.assert_allclose(one_level, model.predict(frame)[:6], rtol=1e-6)
    with pytest.raises(ValueError, match="y mixes texts with other classes"):
        TableClassifier().fit(np.arange(4.0)[:, None], [1, "1", 0, 0])


def test_tables_without_information_give_the_frequencies():
    y = np.repeat([0, 1], [60, 20])
    for x in (np.ones((80, 3)), np.full((80, 2), np.nan)):
        found = TableClassifier().fit(x, y).predict_proba(x)
        np.testing.assert_allclose(found, np.broadcast_to([0.75, 0.25], (80, 2)), atol=0.1)
    dense, y = draws()
    expected = TableClassifier().fit(dense, y).predict_proba(dense)
    made = TableClassifier().fit(sparse.csr_matrix(dense), y)
    np.testing.assert_array_equal(made.predict_proba(sparse.csr_matrix(dense)), expected)


def test_more_rows_than_are_read_at_once_are_read_in_parts(monkeypatch):
    x, y = draws()
    whole = TableClassifier().fit(x, y)
    parts = TableClassifier(rows=40, parts=2).fit(x, y)
    assert len(whole._contexts) == 1 and len(parts._contexts) == 2
    assert all(context["cells"].counts.sum() == 40 for context in parts._contexts)
    assert abs(parts.predict_proba(x) - whole.predict_proba(x)).mean() < 0.1
    few = TableClassifier(rows=10, parts=2).fit(x, y)
    assert all(context["cells"].counts.sum() == 10 for context in few._contexts)
    monkeypatch.setattr(tables, "MEMORY", 1e5)
    made = TableClassifier(parts=2).fit(x, y)
    assert [int(one["cells"].counts.sum()) for one in made._contexts] == [32, 32]
    again = pickle.loads(pickle.dumps(parts))
    np.testing.assert_array_equal(again.predict_proba(x), parts.predict_proba(x))
    with pytest.raises(ValueError, match="whole numbers, 1 or more, got rows=0"):
        TableClassifier(rows=0).fit(x, y)


def test_a_kernel_without_an_inverse_is_an_error(monkeypatch):
    x, y = draws()
    _, predict, params = tables._programs(2)
    broken = jax.tree.map(lambda leaf: leaf * np.nan, params)
    read = tables._programs(2)[0]
    monkeypatch.setattr(tables, "_programs", lambda classes: (read, predict, broken))
    with pytest.raises(FloatingPointError, match="fewer rows at once than rows=2000"):
        TableClassifier().fit(x, y)


def test_a_class_of_few_rows_in_the_middle_is_in_every_part():
    y = np.repeat([0, 1, 2], [3000, 4, 3000])
    x = y[:, None] + 0.1 * np.random.default_rng(0).normal(size=(len(y), 1))
    made = TableClassifier(rows=100, parts=2).fit(x, y)
    assert all((one["mean"][:3] > 0).all() for one in made._contexts)
    assert [int(one["cells"].counts.sum()) for one in made._contexts] == [100, 100]


def test_a_large_table_keeps_every_class():
    x, y = draws()
    many, names = np.tile(x, (5, 1)), np.tile(y, 5)
    many = many + 0.01 * np.random.default_rng(0).normal(size=many.shape)
    names = np.where(np.arange(400) % 40 == 0, 2, names)  # a rare class
    made = TableClassifier(rows=60, parts=2).fit(many, names)
    assert [int(one["cells"].counts.sum()) for one in made._contexts] == [60, 60]
    assert all((one["mean"][:3] > 0).all() for one in made._contexts)
    common = names < 2
    assert made.score(many[common], names[common]) > 0.8


def test_wide_tables_are_read_by_their_most_telling_columns():
    x, y = draws()
    wide = np.random.default_rng(1).normal(size=(80, 300))
    wide[:, 250] = x[:, 0]
    made = TableClassifier().fit(wide[:60], y[:60])
    assert len(made._kept) == 100 and 250 in made._kept
    assert made.score(wide[60:], y[60:]) > 0.6
    assert 250 in TableRegressor().fit(wide, x[:, 0])._kept


def test_lists_of_rows_and_texts_that_are_numbers():
    x, y = draws()
    frame = pd.DataFrame({"number": x[:, 0], "text": np.where(x[:, 1] > 0, "a", "b")})
    expected = TableClassifier().fit(frame, y).predict_proba(frame)
    rows = frame.to_numpy(object).tolist()
    np.testing.assert_array_equal(TableClassifier().fit(rows, y).predict_proba(rows), expected)
    texts = [[str(cell) for cell in row] for row in rows]  # as the csv module reads them
    np.testing.assert_array_equal(TableClassifier().fit(texts, y).predict_proba(texts), expected)
    masked = np.ma.masked_array(x, np.arange(320).reshape(80, 4) % 7 == 0)
    gaps = np.where(masked.mask, np.nan, x)
    np.testing.assert_array_equal(
        TableClassifier().fit(masked, y).predict_proba(masked),
        TableClassifier().fit(gaps, y).predict_proba(gaps),
    )


def test_what_is_missing_tells_and_is_no_text():
    x, y = draws()
    only = pd.DataFrame({"pool": np.where(x[:, 0] > 0, "yes", None), "noise": x[:, 1]})
    assert TableClassifier().fit(only[:60], y[:60]).score(only[60:], y[60:]) > 0.75
    named = pd.DataFrame({"a": np.where(y == 1, "None", "yes").astype(object)})
    made = TableClassifier().fit(named, y)
    found = made.predict_proba(pd.DataFrame({"a": ["None", None, np.nan]}))
    np.testing.assert_array_equal(found[1], found[2])
    assert abs(found[0] - found[1]).max() > 0.1
    empty = pd.DataFrame({"a": [None] * 80, "b": x[:, 0]})
    made = TableClassifier().fit(empty, y)
    later = empty.assign(a="text")
    np.testing.assert_array_equal(made.predict_proba(later), made.predict_proba(empty))


def test_one_cell_that_is_far_away_leaves_the_others():
    x, y = draws()
    for size in (1e3, 1e10, 1e30):
        far = x.copy()
        far[3, 0] = size
        assert TableClassifier().fit(far[:60], y[:60]).score(far[60:], y[60:]) > 0.75


def test_columns_are_compared_by_every_kind_of_name():
    x, y = draws()
    frame = pd.DataFrame(x[:, :3], columns=["a", 0, 1])
    made = TableClassifier().fit(frame, y)
    with pytest.raises(ValueError, match="feature names should match"):
        made.predict(frame[[0, 1, "a"]])
    with pytest.raises(ValueError, match=r"column 'a' has cells of several kinds.*a list"):
        TableClassifier().fit(pd.DataFrame({"a": [[1], [2]] * 40}), y)
    with pytest.raises(ValueError, match=r"infinity.*'b'"):
        TableClassifier().fit(pd.DataFrame({"b": np.where(y, np.inf, 1.0)}), y)
    with pytest.raises(ValueError, match="whole numbers, 1 or more, got rows='50'"):
        TableClassifier(rows="50").fit(x, y)
    good = TableClassifier().fit(pd.DataFrame({"a": x[:, 0]}), y)
    with pytest.raises(ValueError, match="80 rows and y has 79"):
        good.fit(pd.DataFrame({"b": x[:, 0]}), y[:79])
    assert list(good.feature_names_in_) == ["a"]


def test_names_that_are_not_one_column_each():
    x, y = draws()
    frame = pd.DataFrame(x[:, :2], columns=["a", "a"])
    with pytest.raises(ValueError, match="different names"):
        TableClassifier().fit(frame, y)
    with pytest.raises(ValueError, match="80 rows and y has 79"):
        TableClassifier().fit(x, y[:79])
    with pytest.raises(ValueError, match="0 sample"):
        TableClassifier().fit(pd.DataFrame({"a": []}), [])
