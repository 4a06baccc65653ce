"""Contributions held against the definition, and receipts that somebody changed."""

import math
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.server.report.page_checks import assert_accessible

from hansa_common.errors import IdentityError, StorageError, UsageError
from hansa_common.plan import StudyPlan
from hansa_common.roster import Organisation
from hansa_common.signing import public_hex
from hansa_server.trials import contribution
from hansa_server.trials.coalitions import Coalition, Coalitions, Worth, require_individual_updates
from hansa_server.trials.contribution import (
    Measured,
    Receipt,
    SignedReceipt,
    check_receipt,
    choose_method,
    contributions,
    leave_one_out,
    measure,
    needed,
    shapley,
    sign_receipt,
)
from hansa_server.trials.contribution_page import render_contributions, terminal_table

SITES = ("a", "b", "c", "d")


def by_definition(sites: tuple[str, ...], worth: dict[Coalition, float]) -> dict[str, float]:
    """The mean of what a site adds over all orders, as Shapley says it."""
    total = dict.fromkeys(sites, 0.0)
    for order in permutations(sites):
        for place, site in enumerate(order):
            total[site] += worth[frozenset(order[: place + 1])] - worth[frozenset(order[:place])]
    return {site: value / math.factorial(len(sites)) for site, value in total.items()}


@settings(max_examples=30, derandomize=True)
@given(st.lists(st.floats(-1, 1), min_size=16, max_size=16))
def test_shapley_is_the_mean_over_all_orders(values: list[float]) -> None:
    worth = dict(zip(needed(SITES, "exact"), values, strict=True))
    found = shapley(SITES, worth)
    assert found == pytest.approx(by_definition(SITES, worth), abs=1e-12)
    assert sum(found.values()) == pytest.approx(worth[frozenset(SITES)] - worth[frozenset()], abs=1e-12)


def test_the_glove_game() -> None:
    """One left glove, two right ones, a pair is worth 1: 2/3, 1/6, 1/6 (a textbook case)."""
    worth = {
        coalition: float("left" in coalition and len(coalition) > 1)
        for coalition in needed(("left", "r1", "r2"), "exact")
    }
    assert shapley(("left", "r1", "r2"), worth) == pytest.approx({"left": 2 / 3, "r1": 1 / 6, "r2": 1 / 6})


def test_leave_one_out_is_what_is_lost_without_each() -> None:
    wanted = needed(SITES, "leave-one-out")
    assert len(wanted) == len(SITES) + 2
    worth = {
        coalition: sum({"a": 1.0, "b": 2.0, "c": 4.0, "d": 8.0}[site] for site in coalition) for coalition in wanted
    }
    assert leave_one_out(SITES, worth) == {"a": 1.0, "b": 2.0, "c": 4.0, "d": 8.0}


@pytest.mark.parametrize(
    ("asked", "sites", "parameters", "method"),
    [
        (None, 10, 10_000, "exact"),
        (None, 11, 62, "leave-one-out"),
        (None, 4, 10_001, "leave-one-out"),
        ("exact", 4, 10**6, "exact"),
        ("leave-one-out", 4, 62, "leave-one-out"),
    ],
)
def test_the_exact_method_is_for_few_sites_and_cheap_models(
    asked: Any, sites: int, parameters: int, method: str
) -> None:
    assert choose_method(asked, sites=sites, parameters=parameters) == method


def test_thousands_of_trainings_are_refused() -> None:
    with pytest.raises(UsageError, match="2,048 coalitions"):
        choose_method("exact", sites=11, parameters=62)


MASKS = {"maximum_examples": 1_000, "secure_aggregation": {"coordinate_range": 1.0, "cohort": "fixed"}}
NOISE = {
    "weights": "equal",
    "differential": {
        "kind": "site_server",
        "clipping_bound": 1.0,
        "noise_multiplier": 1.0,
        "epsilon": 8.0,
        "delta": 1e-3,
    },
}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"privacy": MASKS}, "masks the sites' updates"),
        ({"privacy": NOISE}, "differential privacy"),
        ({"rounds": {"count": 3, "sites_per_round": 2}}, "draws the sites of a round"),
    ],
)
def test_what_hides_single_sites_is_not_measured(
    make_plan: Callable[..., StudyPlan], changes: dict[str, Any], says: str
) -> None:
    require_individual_updates(make_plan())
    with pytest.raises(UsageError, match=says):
        require_individual_updates(make_plan(**changes))


class Fake:
    """Coalitions whose worth follows from their sites; ``trained`` lists those that were asked for."""

    trained: list[tuple[int, Coalition]]
    names = SITES

    def __init__(self, plan: StudyPlan, _figure: str) -> None:
        self.plan = plan

    def worth(self, coalition: Coalition) -> Worth:
        if coalition:
            self.trained.append((self.plan.seed, coalition))
        return Worth(value=0.1 + 0.2 * len(coalition) + 0.01 * self.plan.seed * ("a" in coalition), parameters=62)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    Fake.trained = []
    monkeypatch.setattr(contribution, "Coalitions", Fake)
    return Fake


def silent(*_args: Any) -> None:
    return


def made(small_plan: StudyPlan, folder: Path, seeds: tuple[int, ...] = (1, 2)) -> Receipt:
    method, measured = measure(small_plan, seeds, folder, method=None, figure="accuracy", tell=silent)
    return Receipt(
        study="small",
        plan_digest=small_plan.digest(),
        simulation_digest=small_plan.simulation_digest(),
        figure="accuracy",
        method=method,
        seeds=seeds,
        sites=contributions(method, seeds, measured),
        measured=measured,
        made_at="2026-11-25T12:00:00+00:00",
        version="0",
    )


def test_every_coalition_is_trained_once_for_each_seed_and_the_spread_is_over_seeds(
    small_plan: StudyPlan, tmp_path: Path, fake: type[Fake]
) -> None:
    receipt = made(small_plan, tmp_path)
    assert len(fake.trained) == len(set(fake.trained)) == 2 * 15
    first, *others = receipt.sites
    assert first.values == pytest.approx((0.21, 0.22))
    assert first.mean == pytest.approx(0.215)
    assert first.deviation == pytest.approx(0.01 / math.sqrt(2))
    assert all(site.values == pytest.approx((0.2, 0.2)) for site in others)


def test_a_stopped_measurement_goes_on_and_half_a_line_is_measured_again(
    small_plan: StudyPlan, tmp_path: Path, fake: type[Fake]
) -> None:
    whole = made(small_plan, tmp_path)
    values = tmp_path / "values.jsonl"
    values.write_text(values.read_text()[:-60])  # the last lines, one of them in half
    fake.trained = []
    assert made(small_plan, tmp_path) == whole
    assert fake.trained == [(2, frozenset(SITES))]
    fake.trained = []
    assert made(small_plan, tmp_path) == whole
    assert fake.trained == []


def test_values_of_another_plan_are_not_taken(
    make_plan: Callable[..., StudyPlan], tmp_path: Path, fake: type[Fake]
) -> None:
    made(make_plan(), tmp_path)
    fake.trained = []
    made(make_plan(rounds={"count": 9}), tmp_path)
    assert len(fake.trained) == 2 * 15
    fake.trained = []
    made(make_plan(simulation={"partition": "iid"}), tmp_path)
    assert len(fake.trained) == 2 * 15


KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SIGNER = Organisation(name="Hospital", key=public_hex(KEY))


def test_a_receipt_holds_and_comes_back_from_json(small_plan: StudyPlan, tmp_path: Path, fake: type[Fake]) -> None:
    signed = sign_receipt(made(small_plan, tmp_path), SIGNER, KEY)
    check_receipt(SignedReceipt.model_validate_json(signed.model_dump_json()))
    check_receipt(SignedReceipt(receipt=signed.receipt))


@pytest.mark.parametrize(
    "change",
    [
        lambda receipt: {"study": "other"},
        lambda receipt: {"seeds": (2, 1)},
        lambda receipt: {"figure": "loss"},
        lambda receipt: {"measured": (*receipt.measured[:-1], Measured(seed=2, sites=SITES, value=0.99))},
    ],
)
def test_a_changed_receipt_is_refused(
    small_plan: StudyPlan, tmp_path: Path, fake: type[Fake], change: Callable[[Receipt], dict[str, Any]]
) -> None:
    signed = sign_receipt(made(small_plan, tmp_path), SIGNER, KEY)
    changed = signed.receipt.model_copy(update=change(signed.receipt))
    with pytest.raises(IdentityError, match="signature of this contribution"):
        check_receipt(signed.model_copy(update={"receipt": changed}))


def test_another_signer_or_half_a_signature_is_refused(small_plan: StudyPlan, tmp_path: Path, fake: type[Fake]) -> None:
    signed = sign_receipt(made(small_plan, tmp_path), SIGNER, KEY)
    with pytest.raises(IdentityError, match="signature of this contribution"):
        check_receipt(signed.model_copy(update={"organisation": Organisation(name="Other", key=SIGNER.key)}))
    with pytest.raises(IdentityError, match="not both"):
        check_receipt(signed.model_copy(update={"signature": None}))
    with pytest.raises(IdentityError, match="not both"):
        check_receipt(signed.model_copy(update={"organisation": None}))


def test_contributions_that_do_not_follow_are_refused_signed_or_not(
    small_plan: StudyPlan, tmp_path: Path, fake: type[Fake]
) -> None:
    receipt = made(small_plan, tmp_path)
    first, *others = receipt.sites
    for sites in (
        (first.model_copy(update={"mean": 0.3}), *others),
        (first.model_copy(update={"values": (0.3, 0.13)}), *others),
        (first.model_copy(update={"values": first.values[:1]}), *others),
        tuple(others),
    ):
        lying = receipt.model_copy(update={"sites": sites})
        with pytest.raises(StorageError, match="do not follow"):
            check_receipt(sign_receipt(lying, SIGNER, KEY))
        with pytest.raises(StorageError, match="do not follow"):
            check_receipt(SignedReceipt(receipt=lying))
    with pytest.raises(StorageError, match="do not follow"):
        check_receipt(SignedReceipt(receipt=receipt.model_copy(update={"measured": receipt.measured[1:]})))


def test_the_page_shows_what_the_receipt_has(small_plan: StudyPlan, tmp_path: Path, fake: type[Fake]) -> None:
    signed = sign_receipt(made(small_plan, tmp_path), SIGNER, KEY)
    text = render_contributions(signed)
    assert_accessible(text)
    assert "+21.5 ± 0.7" in text
    assert "Hospital" in text
    assert "All sites together: accuracy 91.5%; the untrained model: 10.0%." in text
    assert "<script" not in text
    assert terminal_table(signed.receipt).row_count == len(SITES)


def test_a_whole_coalition_is_the_study_itself_and_a_site_alone_trains_alone(
    make_plan: Callable[..., StudyPlan], tmp_path: Path
) -> None:
    from hansa_server.engines.engine import Machine
    from hansa_server.progress import Quiet
    from hansa_server.simulation import simulate
    from hansa_server.store import RunFolder

    plan = make_plan(rounds={"count": 1}, simulation={"sites": 3})
    folder = RunFolder.create(tmp_path / "run")
    whole = simulate(plan, folder, machine=Machine(engine="inline"), observer=Quiet(), baselines=False)
    folder.close()
    assert whole.final is not None
    assert whole.final.weighted_mean is not None
    coalitions = Coalitions(plan, "accuracy")
    assert coalitions.worth(frozenset(coalitions.names)).value == whole.final.weighted_mean.accuracy
    alone = coalitions.worth(frozenset({"site-2"})).value
    nothing = coalitions.worth(frozenset()).value
    assert nothing < alone < whole.final.weighted_mean.accuracy
    assert coalitions.worth(frozenset({"site-2"})).value == alone
    assert Coalitions(plan, "loss").worth(frozenset()).value == pytest.approx(-math.log(10), rel=1e-6)
