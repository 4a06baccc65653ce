"""A small study that every test can build on: logistic regression on scikit-learn's digits, four sites."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from hansa_common.plan import StudyPlan, parse_plan

REPOSITORY = Path(__file__).parents[1]
settings.register_profile("hansa", deadline=None)  # no test asserts on time
settings.load_profile("hansa")


def small_study(*, replaced: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    """Sections given by name are merged into the small study's; those in ``replaced`` take their place."""
    study: dict[str, Any] = {
        "name": "small",
        "purpose": "A test.",
        "seed": 7,
        "model": {"name": "logistic"},
        "data": {"kind": "array", "shape": [64], "minimum": 0.0, "maximum": 1.0, "classes": list("0123456789")},
        "training": {"optimizer": "sgd", "learning_rate": 0.5, "batch_size": 32, "epochs": 1},
        "rounds": {"count": 3, "deadline_seconds": 60.0},
        "simulation": {"sites": 4, "partition": "dirichlet:1.0", "data": {"adapter": "digits"}},
    }
    for name, values in sections.items():
        if isinstance(values, dict) and isinstance(study.get(name), dict):
            study[name] = study[name] | values
        else:
            study[name] = values
    return study | (replaced or {})


@pytest.fixture
def make_plan() -> Callable[..., StudyPlan]:
    def make(**sections: Any) -> StudyPlan:
        return parse_plan(small_study(**sections))

    return make


@pytest.fixture
def small_plan(make_plan: Callable[..., StudyPlan]) -> StudyPlan:
    return make_plan()


@pytest.fixture
def test_data() -> Path:
    """Folder with real data; the test is skipped where there is none."""
    folder = Path(os.environ.get("HANSA_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("HANSA_TEST_DATA names no folder with real data")
    return folder
