"""Each rule of what a study notices: when it speaks, with which figure, and when it must not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hansa_common.messages import Opened
from hansa_common.parameters import ParameterSpec, Tensor
from hansa_common.plan import StudyPlan, parse_plan, read_plan
from hansa_server import notices
from hansa_server.notice import Notice
from hansa_server.notices import Noticed, Sight, label_skew
from hansa_server.results import RoundResult, SiteRound, Summary

REPOSITORY = Path(__file__).parents[3]
ALIKE = ((30,) * 10,) * 4
ONE_CLASS_EACH = tuple(tuple(100 if column == row else 0 for column in range(4)) for row in range(4))


def opened(site: str, counts: Sequence[int], *, train: int | None = None) -> Opened:
    return Opened(
        plan_digest="ab" * 32,
        site=site,
        train=sum(counts) if train is None else train,
        validation=1,
        test=1,
        class_counts=tuple(counts),
        origin="",
        version="0",
        device="cpu",
    )


def closed(
    number: int, losses: Mapping[str, float | None], norms: Mapping[str, float] | None = None, **changes: Any
) -> RoundResult:
    known = [loss for loss in losses.values() if loss is not None]
    entry = RoundResult(
        round=number,
        seconds=1.0,
        incoming=Summary(
            weighted_mean_accuracy=None,
            site_mean_accuracy=None,
            worst_site_accuracy=None,
            worst_site=None,
            weighted_mean_loss=None,
        ),
        train_loss=sum(known) / len(known) if known else None,
        sites=tuple(
            SiteRound(
                site=site,
                num_examples=100,
                train_loss=loss,
                accuracy=None,
                loss=None,
                seconds=1.0,
                train_seconds=1.0,
                update_norm=(norms or {}).get(site),
            )
            for site, loss in losses.items()
        ),
        missing={},
        bytes_up=1,
        bytes_down=1,
    )
    return entry.model_copy(update=changes)


def with_strategy(plan: StudyPlan, strategy: str) -> StudyPlan:
    """The rules go by the name; whether such a strategy is installed does not matter to them."""
    return plan.model_copy(update={"aggregation": plan.aggregation.model_copy(update={"strategy": strategy})})


def sites(*counts: Sequence[int], train: Sequence[int] | None = None) -> dict[str, Opened]:
    sizes = train or [sum(each) for each in counts]
    return {
        f"site-{index}": opened(f"site-{index}", each, train=size)
        for index, (each, size) in enumerate(zip(counts, sizes, strict=True), start=1)
    }


def falling(site_count: int, rounds: int, *, last: Sequence[float] = ()) -> list[RoundResult]:
    """All sites' losses halve each round; those of site-1 end as ``last`` says."""
    found = []
    for number in range(1, rounds + 1):
        losses: dict[str, float | None] = {f"site-{index}": 0.5**number for index in range(1, site_count + 1)}
        if number > rounds - len(last):
            losses["site-1"] = last[number - rounds + len(last) - 1]
        found.append(closed(number, losses))
    return found


def normed(*of_the_first: float, others: float = 1.0, **changes: Any) -> list[RoundResult]:
    """Norms of site-1 round by round; the three others' are near ``others``."""
    found = []
    for number, norm in enumerate(of_the_first, start=1):
        norms = {"site-1": norm, "site-2": others * 0.9, "site-3": others, "site-4": others * 1.1}
        found.append(closed(number, dict.fromkeys(norms, 0.5**number), norms, **changes))
    return found


def larger(rounds: list[RoundResult], site: str, times: int) -> list[RoundResult]:
    return [
        entry.model_copy(
            update={
                "sites": tuple(
                    each.model_copy(update={"num_examples": 100 * times}) if each.site == site else each
                    for each in entry.sites
                )
            }
        )
        for entry in rounds
    ]


NORMS = ParameterSpec(tensors=(Tensor(name="bn.weight", shape=(4,)), Tensor(name="bn.running_mean", shape=(4,))))
PLAIN = ParameterSpec(tensors=(Tensor(name="w", shape=(4,)),))


@dataclass(frozen=True, kw_only=True)
class Case:
    strategy: str = "fedavg"
    personal: str = ""
    sites: Mapping[str, Opened] = field(default_factory=lambda: sites(*ALIKE))
    spec: ParameterSpec = PLAIN
    rounds: Sequence[RoundResult] = ()
    plan: Mapping[str, Any] = field(default_factory=dict)
    kind: str = ""
    figure: float = 0.0
    says: str = ""
    site: str | None = None


FEW = {"rounds": {"count": 9, "sites_per_round": 1}}
LONG = {"rounds": {"count": 18}}
FLAT = [closed(number, {"site-1": loss, "site-2": loss}) for number, loss in enumerate([1.0, 0.6] + [0.599] * 6, 1)]
UNEQUAL = sites(*ALIKE, train=(1_000, 100, 500, 500))
TOPK = {"transport": {"codec": "topk"}}
SPEAKS = {
    "scaffold, 1 of 4 sites a round": Case(
        strategy="scaffold", plan=FEW, kind="scaffold_partial", figure=0.25, says="SCAFFOLD with 1 of 4 sites a round"
    ),
    "scaffold, updates missing": Case(
        strategy="scaffold",
        rounds=falling(3, 2),
        kind="scaffold_partial",
        figure=0.75,
        says="6 of 8 updates were delivered",
    ),
    "top-k, 1 of 4 sites a round": Case(
        plan=FEW | TOPK,
        kind="topk_partial",
        figure=0.25,
        says="Top-k with 1 of 4 sites a round. A site takes part in 25%",
    ),
    "top-k, half of the updates missing": Case(
        plan=TOPK, rounds=falling(2, 2), kind="topk_partial", figure=0.5, says="4 of 8 updates were delivered"
    ),
    "fednova, sizes of 1 to 10": Case(
        strategy="fednova",
        sites=UNEQUAL,
        kind="fednova_quantity",
        figure=10.0,
        says="site-1 trains on 1,000 examples, site-2 on 100, 10 times fewer",
    ),
    "batch normalisation, skewed": Case(
        strategy="fedprox",
        sites=sites(*ONE_CLASS_EACH),
        spec=NORMS,
        kind="batch_norm_skew",
        figure=0.75,
        says="1 running statistics (bn.running_mean for one), and a mean total-variation distance of 0.75",
    ),
    "fedavg, a class a site": Case(sites=sites(*ONE_CLASS_EACH), kind="label_skew", figure=0.75, says="0.75 would be"),
    "an update ten times as long, twice": Case(
        rounds=normed(1.0, 10.0, 10.0),
        kind="diverging_site",
        figure=10.0,
        says="its update in round 3 has norm 10, 10.0 times the others' median of 1",
        site="site-1",
    ),
    "a loss that rises while the others' fall": Case(
        rounds=falling(4, 5, last=(0.125, 0.6, 1.2)),
        kind="diverging_site",
        figure=9.6,
        says="its training loss rose to 1.2 in round 5, 9.6 times its own least; the others' median is 0.0312",
        site="site-1",
    ),
    "a loss that stays": Case(
        rounds=FLAT, plan=LONG, kind="stalled", figure=0.599, says="not fallen for 6 rounds: 0.6000 at best before"
    ),
}
SILENT = {
    "scaffold, all sites": Case(strategy="scaffold", rounds=falling(4, 3)),
    "fedavg, few sites a round": Case(plan=FEW),
    "top-k, all sites": Case(plan=TOPK, rounds=falling(4, 3)),
    "top-k, 3 of 4 updates": Case(plan=TOPK, rounds=falling(3, 2)),
    "scaffold before the first round": Case(strategy="scaffold"),
    "fednova, sizes of 1 to 9": Case(strategy="fednova", sites=sites(*ALIKE, train=(900, 100, 500, 500))),
    "fednova, a size kept at home": Case(strategy="fednova", sites=sites(*ALIKE, train=(1_000, 0, 500, 500))),
    "fedavg, unequal sizes": Case(sites=UNEQUAL),
    "batch normalisation, sites alike": Case(spec=NORMS),
    "no batch normalisation": Case(strategy="fedprox", sites=sites(*ONE_CLASS_EACH)),
    "batch normalisation kept at the sites": Case(personal="fedbn", sites=sites(*ONE_CLASS_EACH), spec=NORMS),
    "a head of its own at each site": Case(personal="fedper", sites=sites(*ONE_CLASS_EACH)),
    "scaffold, a class a site": Case(strategy="scaffold", sites=sites(*ONE_CLASS_EACH)),
    "class counts kept at home by one": Case(sites=sites(*ONE_CLASS_EACH[:3], ())),
    "newton where it has arrived": Case(rounds=FLAT, plan=LONG, strategy="newton"),
    "one site": Case(sites=sites((10, 0))),
    "an update ten times as long, once": Case(rounds=normed(1.0, 1.0, 10.0)),
    "an update four times as long": Case(rounds=normed(4.0, 4.0, 4.0)),
    "a longer update where all scatter": Case(
        rounds=[
            closed(number, dict.fromkeys("abcde", 0.5), dict(zip("abcde", (9.0, 0.2, 1.0, 2.0, 3.0), strict=True)))
            for number in (1, 2)
        ]
    ),
    "a site ten times as large": Case(
        rounds=larger(normed(10.0, 10.0, 10.0), "site-1", 10), plan={"training": {"epochs": 1}}
    ),
    "one other site only": Case(
        rounds=[closed(number, {"a": 0.5, "b": 0.5}, {"a": 10.0, "b": 1.0}) for number in (1, 2)]
    ),
    "no norms": Case(rounds=falling(4, 3)),
    "norms of some": Case(rounds=[closed(n, dict.fromkeys("abcd", 0.5), {"a": 9.0, "b": 1.0}) for n in (1, 2)]),
    "hard data: a high loss that falls": Case(rounds=falling(4, 5, last=(4.0, 3.0, 2.5, 2.2, 2.1))),
    "a loss that rises, and not above its first": Case(rounds=falling(4, 5, last=(0.05, 0.2, 0.4))),
    "class counts kept at home by all": Case(sites=sites((), (), (), train=(9, 9, 9))),
    "a loss that rises once": Case(rounds=falling(4, 5, last=(0.125, 0.05, 1.2))),
    "losses kept at home": Case(rounds=[closed(n, dict.fromkeys("abcd")) for n in range(1, 9)], plan=LONG),
    "a loss that falls slowly": Case(
        rounds=[closed(n, {"a": 1.0 - 0.01 * n, "b": 1.0 - 0.01 * n}) for n in range(1, 15)], plan=LONG
    ),
    "a loss with nothing left to fall": Case(
        rounds=[closed(n, {"a": loss, "b": loss}) for n, loss in enumerate([1.0] + [0.04] * 9, 1)], plan=LONG
    ),
    "too few rounds to tell": Case(rounds=FLAT[:6], plan=LONG),
}


def seen(make_plan: Callable[..., StudyPlan], case: Case) -> tuple[Notice, ...]:
    plan = with_strategy(make_plan(**case.plan), case.strategy)
    if case.personal:
        plan = plan.model_copy(update={"personalisation": SimpleNamespace(method=case.personal)})
    return Noticed().look(Sight(plan=plan, sites=case.sites, spec=case.spec, rounds=case.rounds))


@pytest.mark.parametrize("case", SPEAKS.values(), ids=SPEAKS.keys())
def test_it_says_what_it_sees_with_the_figure(make_plan: Callable[..., StudyPlan], case: Case) -> None:
    (notice,) = seen(make_plan, case)
    assert notice.kind == case.kind
    assert notice.figure == pytest.approx(case.figure, abs=1e-3)
    assert case.says in notice.text
    assert notice.site == case.site
    assert notice.advice
    assert notice.round == (case.rounds[-1].round if case.rounds else 0)


@pytest.mark.parametrize("case", SILENT.values(), ids=SILENT.keys())
def test_it_is_silent_where_there_is_nothing_to_see(make_plan: Callable[..., StudyPlan], case: Case) -> None:
    assert seen(make_plan, case) == ()


def test_every_rule_has_a_case_that_needs_it(
    make_plan: Callable[..., StudyPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule that is left out makes a case silent: no case is covered by another rule."""
    needed = set()
    every = {rule for rules in notices.RULES.values() for rule in rules}
    for rule in every:
        with monkeypatch.context() as patch:
            for moment, rules in notices.RULES.items():
                patch.setitem(notices.RULES, moment, tuple(other for other in rules if other is not rule))
            needed |= {rule for case in SPEAKS.values() if not seen(make_plan, case)}
    assert needed == every


def test_a_notice_appears_once_and_keeps_its_round_over_a_resume(small_plan: StudyPlan) -> None:
    who, rounds = sites(*ONE_CLASS_EACH), normed(10.0, 10.0, 10.0, 10.0)
    going = Noticed()
    told: list[Notice] = []
    for number in range(len(rounds) + 1):
        told += going.look(Sight(plan=small_plan, sites=who, rounds=rounds[:number]))
    assert [(notice.kind, notice.round) for notice in told] == [("label_skew", 0), ("diverging_site", 2)]
    resumed = Noticed()
    resumed.replay(Sight(plan=small_plan, sites=who, rounds=rounds))
    assert resumed.all == going.all == tuple(told)


@pytest.mark.parametrize("seed", range(3))
def test_label_skew_is_the_mean_total_variation_distance(seed: int) -> None:
    """Held against NumPy."""
    counts = np.random.default_rng(seed).integers(1, 50, size=(5, 7))
    shares, whole = counts / counts.sum(axis=1, keepdims=True), counts.sum(axis=0) / counts.sum()
    distances = 0.5 * np.abs(shares - whole).sum(axis=1)
    skew = label_skew(sites(*counts.tolist()))
    assert skew is not None
    assert skew.distance == pytest.approx(np.average(distances, weights=counts.sum(axis=1)))
    assert skew.most == pytest.approx(1 - (whole**2).sum())


def test_one_class_each_is_all_the_skew_there_can_be() -> None:
    skew = label_skew(sites((900, 0, 0), (0, 50, 0), (0, 0, 10)))
    assert skew is not None
    assert skew.share == pytest.approx(1.0)


def embedded(name: str) -> StudyPlan:
    return read_plan(REPOSITORY / f"deploy/studies/{name}.toml")


def divided(plan: StudyPlan, labels: "np.ndarray[Any, Any]", seed: int) -> dict[str, Opened]:
    from hansa_client.data import Dataset
    from hansa_client.data.partition import partition
    from hansa_common.simulation_plan import Partition

    assert plan.simulation is not None
    data = Dataset(features=np.zeros((len(labels), 1), np.float32), labels=labels)
    spec = Partition.parse(plan.simulation.partition)
    parts = partition(data, spec, plan.simulation.sites, seed, minimum=plan.data.minimum_examples)
    counts = [np.bincount(labels[own], minlength=len(plan.data.classes)).tolist() for _, own in parts]
    return sites(*counts)


DIGITS = (0.9205, 0.3131, 0.1629, 0.1042, 0.0792, 0.063, 0.0532, 0.0421, 0.0324, 0.0243, 0.0197, 0.016, 0.0119, 0.0112)
DIGITS_TO_THE_END = (*DIGITS, 0.0097, 0.0065, 0.0053, 0.0043, 0.0047, 0.0068)
"""Training losses of the embedded study on digits, as measured."""


@pytest.mark.parametrize("name", ["digits", "cifar10"])
@pytest.mark.parametrize("seed", range(8))
def test_the_embedded_studies_give_no_notice(name: str, seed: int) -> None:
    """With their own partitions, over ten balanced classes as their data sets have, and the losses of a real run."""
    plan = embedded(name)
    who = divided(plan, np.arange(5_000, dtype=np.int64) % 10, seed)
    noticed = Noticed()
    for count in range(len(DIGITS_TO_THE_END) + 1):
        rounds = [
            closed(number, dict.fromkeys(who, loss), dict.fromkeys(who, loss))
            for number, loss in enumerate(DIGITS_TO_THE_END[:count], start=1)
        ]
        noticed.look(Sight(plan=plan, sites=who, spec=PLAIN, rounds=rounds))
    assert noticed.all == ()


def test_three_classes_a_site_are_noticed_on_the_embedded_study() -> None:
    plan = embedded("digits")
    values = plan.model_dump(exclude_none=True)
    values["simulation"] |= {"partition": "shards:3"}
    who = divided(parse_plan(values), np.arange(5_000, dtype=np.int64) % 10, 1)
    (notice,) = Noticed().look(Sight(plan=plan, sites=who))
    assert notice.kind == "label_skew"
