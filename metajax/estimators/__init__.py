"""Estimators with the interface of scikit-learn: in-context learning of tables, without training.

>>> from sklearn.datasets import load_iris
>>> from sklearn.model_selection import cross_val_score
>>> x, y = load_iris(return_X_y=True)
>>> float(cross_val_score(TableClassifier(), x, y).mean()) > 0.9
True
"""

try:
    import sklearn as _sklearn  # noqa: F401
except ImportError as error:
    raise ImportError(
        "metajax.estimators needs scikit-learn: pip install 'metajax[tables]'."
    ) from error

from metajax.estimators.tables import TableClassifier as TableClassifier
from metajax.estimators.tables import TableRegressor as TableRegressor
