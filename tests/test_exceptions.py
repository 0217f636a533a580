"""What importing the package loads, and whose error NotFittedError is."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import sklearn.exceptions
from nets import make_net

from captum_kmex import KMExAttribution, NotFittedError


def output(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_import_loads_nothing_heavy_that_captum_does_not():
    code = (
        "import sys, torch, captum, captum.attr\n"
        "before = {name.split('.')[0] for name in sys.modules}\n"
        "import captum_kmex\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules} - before))"
    )
    found = set(output(code).split())
    assert not found & {"sklearn", "scipy", "pandas", "joblib", "torchvision", "timm", "PIL"}
    assert "sklearn" not in output("import captum_kmex, sys; print(*sys.modules)").split()


@pytest.mark.slow
def test_not_fitted_error_needs_no_sklearn():
    code = (
        "import captum_kmex, sys\n"
        "error = captum_kmex.NotFittedError('x')\n"
        "print(isinstance(error, ValueError), isinstance(error, AttributeError))\n"
        "print('sklearn' in sys.modules)"
    )
    assert output(code).split() == ["True", "True", "False"]


@pytest.mark.parametrize(
    "category",
    [NotFittedError, sklearn.exceptions.NotFittedError, ValueError, AttributeError],
    ids=["ours", "sklearn", "value", "attribute"],
)
def test_not_fitted_error_is_caught_as(category, images):
    with pytest.raises(category, match="call fit"):
        KMExAttribution(make_net()).predict(images)


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
def test_not_fitted_error_is_copied_and_pickled(again):
    found = again(NotFittedError("call fit first"))
    assert isinstance(found, sklearn.exceptions.NotFittedError)
    assert isinstance(found, NotFittedError)
    assert found.args == ("call fit first",)
    assert type(found).__name__ == "NotFittedError"
