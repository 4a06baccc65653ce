"""Statistics as the coordinator takes them: of the examples that a site declared, or not at all."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from hansa_common.errors import StudyFailed
from hansa_common.feature_sums import FeatureSums, Sums, measure
from hansa_common.messages import Message, Opened, Statistics
from hansa_common.plan import StudyPlan
from hansa_common.protection import kind_of
from hansa_server.exchange import Answer
from hansa_server.gathering import Gathered, gather_once
from hansa_server.panel import Panel
from hansa_server.store import RunFolder

TRAIN = 40
SITES = ("a", "b", "c")


@pytest.fixture
def plan(make_plan: Callable[..., StudyPlan]) -> StudyPlan:
    preprocessing = {"standardise": "federation", "minimum_count": 20}
    return make_plan(data={"shape": [3, 2]}, preprocessing=preprocessing, rounds={"quorum": 0.5})


def words(plan: StudyPlan, examples: int = TRAIN, *, shift: float = 0.0) -> Sums:
    rng = np.random.default_rng(5)
    return measure(rng.normal(shift, size=(examples, 3, 2)).astype(np.float32), plan.preprocessing, plan.data)


def gathered(plan: StudyPlan, folder: Path, third: Sums) -> Gathered:
    sent = dict(zip(SITES, (words(plan), words(plan), third), strict=True))

    def ask(requests: Sequence[tuple[int, Message]]) -> Iterator[Answer]:
        for node, _task in requests:
            header = Statistics(plan_digest=plan.digest(), site=SITES[node], seconds=0.0)
            yield Answer(node=node, message=Message(header=header, sums=sent[SITES[node]]))

    opened = {
        site: Opened(
            plan_digest=plan.digest(),
            site=site,
            train=TRAIN,
            validation=5,
            test=5,
            class_counts=(),
            origin="",
            version="1",
            device="cpu",
        )
        for site in SITES
    }
    nodes = {site: node for node, site in enumerate(SITES)}
    panel = Panel(plan=plan, digest=plan.digest(), kind=kind_of(plan), opened=opened, nodes=nodes, ask_nodes=ask)
    return gather_once(panel, None, RunFolder.create(folder))


def test_honest_sites_all_count(plan: StudyPlan, tmp_path: Path) -> None:
    found = gathered(plan, tmp_path / "run", words(plan))
    assert found.sites == SITES
    assert found.features[0].count == 3 * 3 * TRAIN


def test_a_site_with_too_few_values_of_a_feature_adds_nothing_to_it(plan: StudyPlan, tmp_path: Path) -> None:
    nothing = FeatureSums.of(np.zeros(0, np.float32), span=None, bins=0).to_words()
    found = gathered(plan, tmp_path / "run", np.concatenate([nothing, words(plan)[len(nothing) :]]))
    assert found.sites == SITES
    assert [one.count for one in found.features] == [2 * 3 * TRAIN, 3 * 3 * TRAIN]


@pytest.mark.parametrize("examples", [TRAIN * 1_000, TRAIN - 1])
def test_a_site_that_claims_other_examples_than_it_declared_is_left_out(
    plan: StudyPlan, tmp_path: Path, examples: int
) -> None:
    found = gathered(plan, tmp_path / "run", words(plan, examples, shift=9.0))
    assert found.sites == ("a", "b")
    assert abs(found.features[0].mean) < 1.0


def test_below_the_quorum_the_study_says_who_sent_what(plan: StudyPlan, tmp_path: Path) -> None:
    strict = plan.model_copy(update={"rounds": plan.rounds.model_copy(update={"quorum": 1.0})})
    with pytest.raises(StudyFailed, match="c: It sent statistics of other examples"):
        gathered(strict, tmp_path / "run", words(strict, 10 * TRAIN))
