from hansa_common.strategies import STRATEGIES as DECIDED
from hansa_server.strategies import STRATEGIES


def test_every_strategy_that_there_is_was_decided_on_and_no_other() -> None:
    assert set(DECIDED) == set(STRATEGIES)
