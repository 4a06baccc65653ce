from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest

from hansa_common.errors import StudyFailed
from hansa_common.messages import Baseline, BaselineTask, Message
from hansa_common.metrics import ClassificationCounts
from hansa_server.baselines import MOST_IN_MATRIX, Baselines, train_baselines
from hansa_server.exchange import Answer

DIGEST = "0" * 64
COUNTS = ClassificationCounts.of(np.array([[0.9, 0.1]], np.float32), np.array([0]), np.ones(1), histograms=False)


def train(num_sites: int, *, tested: Mapping[str, Sequence[str]] | None = None) -> tuple[Baselines, list[BaselineTask]]:
    """Train at sites that answer at once; ``tested`` names the sites where one of them tests its own model."""
    nodes = {f"site-{node:02}": node for node in range(1, num_sites + 1)}
    asked: list[BaselineTask] = []

    def ask(requests: Sequence[tuple[int, Message]]) -> Iterator[Answer]:
        for node, message in requests:
            header, site = message.header, f"site-{node:02}"
            assert isinstance(header, BaselineTask)
            asked.append(header)
            names: Sequence[str] = list(nodes) if header.subject == "pooled" or header.everywhere else [site]
            if header.subject == "local":
                names = (tested or {}).get(site, names)
            reply = Baseline(plan_digest=DIGEST, subject=header.subject, site=site, seconds=1.0)
            yield Answer(node=node, message=Message(header=reply, counts=dict.fromkeys(names, COUNTS)))

    return train_baselines(ask, plan_digest=DIGEST, nodes=nodes, initial=np.zeros(3, np.float32)), asked


@pytest.mark.parametrize(("num_sites", "rows"), [(1, 0), (2, 2), (MOST_IN_MATRIX, MOST_IN_MATRIX)])
def test_every_model_is_tested_everywhere_where_there_are_few_sites(num_sites: int, rows: int) -> None:
    found, asked = train(num_sites)
    assert len(found.across) == rows
    assert all(set(row) == set(found.local_only) for row in found.across.values())
    assert sum(task.everywhere for task in asked) == rows


def test_there_is_no_matrix_of_more_sites_than_can_be_read() -> None:
    found, asked = train(MOST_IN_MATRIX + 1)
    assert len(found.local_only) == MOST_IN_MATRIX + 1
    assert found.across == {}
    assert not any(task.everywhere for task in asked)


@pytest.mark.parametrize("names", [["site-02"], ["site-01", "site-03"], []])
def test_a_model_that_was_not_tested_everywhere_is_refused(names: list[str]) -> None:
    with pytest.raises(StudyFailed, match="other sites than asked"):
        train(3, tested={"site-02": names})
