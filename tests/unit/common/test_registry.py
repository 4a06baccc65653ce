import pytest

from hansa_common.errors import UsageError
from hansa_common.registry import Registry, suggest


def test_an_entry_is_found_by_its_name() -> None:
    registry: Registry[int] = Registry("number")
    assert registry.register("one")(1) == 1
    registry.register("two")(2)
    assert (registry.find("one"), registry["two"], list(registry), len(registry)) == (1, 2, ["one", "two"], 2)


def test_a_name_is_given_once() -> None:
    registry: Registry[int] = Registry("number")
    registry.register("one")(1)
    with pytest.raises(RuntimeError, match="There is a number named 'one' already"):
        registry.register("one")(1)
    assert registry.find("one") == 1


def test_an_unknown_name_is_the_user_s_fault_and_explained() -> None:
    registry: Registry[int] = Registry("aggregation strategy")
    registry.register("fedprox")(1)
    registry.register("fedavg")(2)
    with pytest.raises(UsageError) as caught:
        registry.find("fedavgg")
    assert str(caught.value) == (
        "There is no aggregation strategy named 'fedavgg'. Did you mean 'fedavg'? Allowed: fedavg, fedprox."
    )
    with pytest.raises(KeyError):
        registry["fedavgg"]


def test_nothing_close_is_suggested_for_a_name_that_is_far_off() -> None:
    assert suggest("zzz", ["fedavg"]) == "Allowed: fedavg."
