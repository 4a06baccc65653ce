import inspect
import re

import pytest

from hansa_common import errors
from hansa_common.errors import HansaError

_CLASSES: dict[str, type[HansaError]] = {
    name: value for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, HansaError)
}


def test_every_code_is_used_once() -> None:
    codes = [cls.code for cls in _CLASSES.values()]
    assert len(set(codes)) == len(codes) == len(_CLASSES) > 15


@pytest.mark.parametrize("cls", _CLASSES.values(), ids=_CLASSES)
def test_every_error_says_itself_what_may_leave_the_site(cls: type[HansaError]) -> None:
    assert {"code", "public"} <= vars(cls).keys()
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", cls.code)
    assert len(cls.code) <= 64
    assert re.fullmatch(r"[A-Z].{10,150}\.", cls.public)
    assert "{" not in cls.public
    assert cls.__doc__


@pytest.mark.parametrize("cls", _CLASSES.values(), ids=_CLASSES)
def test_exit_code_2_is_the_user_s_fault_and_1_everything_else(cls: type[HansaError]) -> None:
    assert cls.exit_code == (2 if issubclass(cls, errors.UsageError) else 1)


def test_an_error_reads_message_then_advice() -> None:
    error = errors.DataUnavailable("a.csv is missing.", advice="Check the path.")
    assert (error.message, error.advice, str(error)) == (
        "a.csv is missing.",
        "Check the path.",
        "a.csv is missing. Check the path.",
    )
    assert str(errors.DataUnavailable("a.csv is missing.")) == "a.csv is missing."


def test_the_errors_with_more_to_say() -> None:
    refused = errors.UpdateRefused("The delta is not finite.", site="north")
    assert (refused.site, refused.code) == ("north", "update-refused")
    assert errors.PlanError("rounds.count: found 0.", path="rounds.count").path == "rounds.count"


def test_the_tree_says_whose_fault_it_is() -> None:
    assert issubclass(errors.ContractViolation, errors.DataError)
    assert issubclass(errors.PlanError, errors.SettingsError)
    assert issubclass(errors.StudyInterrupted, errors.StudyFailed)
    assert not issubclass(HansaError, RuntimeError)  # that is a bug in the caller
