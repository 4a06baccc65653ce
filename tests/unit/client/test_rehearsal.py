"""What ``hansa site check`` finds out about a study before it is approved."""

from collections.abc import Callable
from typing import Any

import pytest

from hansa_client import rehearsal
from hansa_common.plan import StudyPlan
from hansa_common.simulation_plan import SourcePlan


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({}, "receives 2.6 kB and sends 2.6 kB in a round"),
        ({"aggregation": {"strategy": "scaffold"}}, "receives 5.2 kB and sends 5.2 kB in a round"),
        (
            {"transport": {"codec": "topk", "down": "int8", "compress": "zstd"}},
            "receives 662 B and sends 17 B in a round",
        ),
    ],
)
def test_a_round_is_tried_as_the_coordinator_would_ask_for_it(
    make_plan: Callable[..., StudyPlan],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sections: dict[str, Any],
    says: str,
) -> None:
    plan = make_plan(federation={"sites": ["rehearsal", "b"]}, **sections)
    source = SourcePlan(adapter="digits").model_dump_json()
    monkeypatch.setattr("sys.argv", ["rehearsal", plan.model_dump_json(), source, "0"])
    rehearsal.main()
    found = capsys.readouterr().out
    assert "1,797 examples fulfil the contract; a round takes about " in found
    assert says in found
