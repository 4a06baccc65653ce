"""Windows of a unit's rows, held against a second reading of the rules that looks at one row after the other."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa_common.contract import ArrayContract
from hansa_common.errors import PlanError
from hansa_common.plan import parse_plan
from hansa_common.series import WindowsContract, cut


def oracle(rows: int, steps: int, stride: int, horizon: int, *, pad: bool) -> list[list[int]]:
    """Return the places of the rows of each window, the last window first found."""
    found = []
    for back in range(0, rows, stride):
        end = rows - 1 - horizon - back
        window = list(range(end - steps + 1, end + 1))
        if end >= 0 and (window[0] >= 0 or (pad and not back)):
            found.append([max(0, place) for place in window])
    return found[::-1]


@settings(max_examples=60, derandomize=True)
@given(
    rows=st.integers(1, 12),
    steps=st.integers(1, 6),
    stride=st.integers(1, 4),
    horizon=st.integers(0, 4),
    short=st.sampled_from(["refuse", "drop", "pad"]),
)
def test_windows_are_those_of_the_rules(rows: int, steps: int, stride: int, horizon: int, short: Any) -> None:
    contract = WindowsContract(columns=("a", "b"), unit="u", label="y", horizon=horizon, stride=stride, short=short)
    ends = contract.ends(rows, steps)
    expected = oracle(rows, steps, stride, horizon, pad=short == "pad")
    assert ends.tolist() == [window[-1] for window in expected]
    values = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    windows = cut(values, ends, steps)
    assert windows.shape == (len(expected), steps, 2)
    assert windows.tolist() == [values[window].tolist() for window in expected]


STUDY: dict[str, Any] = {
    "name": "pumps",
    "purpose": "A test.",
    "model": {"name": "lstm"},
    "data": {
        "kind": "array",
        "shape": [5, 2],
        "target": {"kind": "number"},
        "windows": {"columns": ["heat", "load"], "unit": "pump", "label": "wear"},
    },
    "training": {"steps": 1},
    "rounds": {"count": 1},
    "evaluation": {"group": "pump"},
}


def study(windows: dict[str, Any], **data: Any) -> dict[str, Any]:
    return STUDY | {"data": STUDY["data"] | {"windows": STUDY["data"]["windows"] | windows} | data}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (study({"columns": ["heat"]}), r"^data\.shape: found \[5, 2\]; allowed is \[steps, 1\]"),
        (study({"columns": ["heat", "heat"]}), r"^data\.windows\.columns: a column is named twice"),
        (study({"unit": "heat"}), r"^data\.windows\.unit: 'heat' is a feature column too\.$"),
        (study({"label": "load"}), r"^data\.windows\.label: 'load' is a feature column too; with a horizon above 0"),
        (study({"remaining": True}), r"^data\.windows\.remaining: .*leave label, horizon and unlabelled out"),
        (study({"remaining": True, "label": None}, target=None, classes=["a", "b"]), "is a number of rows"),
        (study({"label": None}), r"windows\.label: goes with classes and numbers"),
        (study({}, target={"kind": "reconstruction"}), r"windows\.label: goes with classes and numbers"),
        (study({"label": None}, target={"kind": "survival", "time": "t", "event": "e"}), "is of a person"),
        (STUDY | {"evaluation": {}}, "what they are cut from must not be in training and test.*'pump', or another"),
        (STUDY | {"preprocessing": {"condition": {"column": "load", "levels": [0, 1]}}}, "goes with standardise"),
        (
            STUDY | {"preprocessing": {"standardise": "federation", "condition": {"column": "wear", "levels": [0, 1]}}},
            "'wear' is no feature",
        ),
        (
            STUDY | {"preprocessing": {"standardise": "federation", "condition": {"column": "load", "levels": [1, 1]}}},
            r"^preprocessing\.condition\.levels: not ascending",
        ),
        (study({}, standardise="site") | {"preprocessing": {"standardise": "federation"}}, "leave one of them out"),
    ],
)
def test_windows_that_make_no_sense_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_plan(changed)


def test_a_feature_may_be_forecast_and_every_key_is_in_the_digest() -> None:
    forecast = parse_plan(study({"label": "load", "horizon": 3}))
    assert isinstance(forecast.data, ArrayContract)
    plans = [parse_plan(STUDY), forecast, parse_plan(study({"stride": 2})), parse_plan(study({}, standardise="site"))]
    assert len({plan.digest() for plan in plans}) == len(plans)


def test_a_plan_for_arrays_from_before_there_were_windows_keeps_its_digest() -> None:
    data = {key: value for key, value in STUDY["data"].items() if key != "windows"}
    plan = parse_plan(STUDY | {"data": data, "preprocessing": {"standardise": "federation"}})
    assert plan.digest() == "e24b205636efff3ec01154f9ec296b88cfc587ec934d160a4d34534bac0d5898"
