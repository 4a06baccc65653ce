"""The rules that withstand hostile sites, against their papers on whole vectors, and under the attack suite."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.attacks import UPDATE_ATTACKS
from tests.unit.server.strategies.played import Options, made, matrix, rounds, start, stepped

from hansa_common.errors import PlanError, StudyFailed
from hansa_common.mapping import is_mapped
from hansa_common.parameters import Accumulator
from hansa_server.strategies import Contribution, Strategy
from hansa_server.strategies.robust import gram_of
from hansa_server.vectors import keep

F = 2  # of 6 or 7 sites


def mixed(x: Accumulator, f: int) -> Accumulator:
    """NNM as algorithm 2 of Allouah et al. writes it: each update becomes the mean of its n - f nearest."""
    rows = []
    for one in x:
        nearest = sorted(range(len(x)), key=lambda j: float(np.linalg.norm(x[j] - one)))
        rows.append(x[nearest[: len(x) - f]].mean(axis=0))
    return np.stack(rows)


def median(x: Accumulator) -> Accumulator:
    middle: Accumulator = np.median(x, axis=0)
    return middle


def trimmed_mean(x: Accumulator) -> Accumulator:
    columns = [sorted(column.tolist())[F : len(x) - F] for column in x.T]
    mean: Accumulator = np.array([math.fsum(column) / len(column) for column in columns])
    return mean


def multi_krum(x: Accumulator) -> Accumulator:
    n = len(x)
    scores = []
    for i in range(n):
        far = sorted(float(((x[i] - x[j]) ** 2).sum()) for j in range(n) if j != i)
        scores.append(sum(far[: n - F - 2]))
    mean: Accumulator = x[sorted(range(n), key=lambda i: scores[i])[: n - F]].mean(axis=0)
    return mean


def geometric_median(x: Accumulator) -> Accumulator:
    """Run Weiszfeld's algorithm on the vectors themselves."""
    z: Accumulator = x.mean(axis=0)
    for _ in range(100):
        pull = 1.0 / np.maximum(np.linalg.norm(x - z, axis=1), 1e-6)
        z = pull @ x / pull.sum()
    return z


def norm_bound(x: Accumulator) -> Accumulator:
    clipped = [one * min(1.0, 5.0 / float(np.linalg.norm(one))) for one in x]
    mean: Accumulator = np.mean(clipped, axis=0)
    return mean


RULES: dict[str, tuple[Options, Callable[[Accumulator], Accumulator]]] = {
    "median": ({}, median),
    "trimmed_mean": ({}, trimmed_mean),
    "multi_krum": ({}, multi_krum),
    "geometric_median": ({}, geometric_median),
    "norm_bound": ({"bound": 5.0}, norm_bound),
}


@pytest.mark.parametrize("nnm", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_it_is_the_paper_s_rule_over_rounds(name: str, *, nnm: bool) -> None:
    options, oracle = RULES[name]
    strategy = made(name, {**options, "hostile": F, "nnm": nnm})
    found = start()
    for updates in rounds(3, missing=name != "multi_krum"):
        x = matrix(updates)
        expected = found + oracle(mixed(x, F) if nnm else x)
        found = stepped(strategy, found, updates)
        assert np.allclose(found, expected, atol=1e-5)


def test_nothing_near_the_geometric_median_is_nearer_to_all() -> None:
    (updates,) = rounds(1)
    x, rng = matrix(updates), np.random.default_rng(5)
    found = stepped(made("geometric_median"), np.zeros(150, np.float32), updates).astype(np.float64)
    least = np.linalg.norm(x - found, axis=1).sum()
    for length in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(20):
            away = rng.normal(size=150)
            moved = found + length * away / np.linalg.norm(away)
            assert np.linalg.norm(x - moved, axis=1).sum() > least


@pytest.mark.parametrize("nnm", [False, True])
@pytest.mark.parametrize("iterations", [1, 3])
def test_centered_clipping_is_the_paper_s_with_a_center_that_is_kept(iterations: int, *, nnm: bool) -> None:
    strategy = made("centered_clipping", {"radius": 4.0, "iterations": iterations, "hostile": F, "nnm": nnm})
    found, v = start(), np.zeros(150)
    for updates in rounds():
        x = mixed(matrix(updates), F) if nnm else matrix(updates)
        for _ in range(iterations):
            v = v + np.mean([(one - v) * min(1.0, 4.0 / float(np.linalg.norm(one - v))) for one in x], axis=0)
        expected = found + v
        found = stepped(strategy, found, updates)
        assert np.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("nnm", [False, True])
def test_fltrust_is_algorithm_2_of_the_paper(*, nnm: bool) -> None:
    strategy, found = made("fltrust", {"root": "site-3", "hostile": F, "nnm": nnm}), start()
    for updates in rounds(3, missing=False):
        x = matrix(updates)
        root, others = x[3], np.delete(x, 3, axis=0)
        others = mixed(others, F) if nnm else others
        trust = [max(0.0, float(g @ root / np.linalg.norm(g) / np.linalg.norm(root))) for g in others]
        scaled = [t * np.linalg.norm(root) / np.linalg.norm(g) * g for t, g in zip(trust, others, strict=True)]
        expected = found + np.sum(scaled, axis=0) / sum(trust)
        found = stepped(strategy, found, updates)
        assert np.allclose(found, expected, atol=1e-5)


def test_where_nobody_is_trusted_the_root_s_update_counts() -> None:
    (updates,) = rounds(1)
    turned = [updates[3], *(replace(one, delta=-updates[3].delta) for one in updates if one.site != "site-3")]
    strategy = made("fltrust", {"root": "site-3"})
    assert np.allclose(stepped(strategy, start(), turned), start() + updates[3].delta)
    assert set(strategy.left_out) == {one.site for one in updates} - {"site-3"}


@pytest.mark.parametrize("length", [0.0, 1e-30])
def test_fltrust_survives_updates_without_length(length: float) -> None:
    (updates,) = rounds(1)
    nothing = [replace(one, delta=np.full_like(one.delta, length)) for one in updates]
    for updates_of_round in (nothing, [updates[0], *nothing[1:]], [nothing[0], *updates[1:]]):
        assert np.isfinite(stepped(made("fltrust", {"root": "site-0"}), start(), updates_of_round)).all()


def test_fltrust_without_its_root_goes_no_further() -> None:
    strategy = made("fltrust", {"root": "site-3"})
    strategy.require(["site-3", "b"])
    with pytest.raises(StudyFailed, match="'site-3' takes no part"):
        strategy.require(["a", "b"])
    (updates,) = rounds(1)
    with pytest.raises(StudyFailed, match="'site-3' delivered no update"):
        stepped(strategy, start(), updates[:3])


COMPLETE: dict[str, Options] = {
    "median": {},
    "trimmed_mean": {},
    "multi_krum": {},
    "geometric_median": {},
    "centered_clipping": {"radius": 8.0, "iterations": 5},
    "fltrust": {"root": "site-00"},
}
"""Rules that bound what a hostile site does; a bound on norms alone lets a tenth of each through."""


def toy(attack: str, seed: int) -> tuple[list[Contribution], Accumulator, float]:
    """Sixteen honest updates around a common step and four hostile ones; the honest mean, and the honest spread."""
    rng = np.random.default_rng(seed)
    step = rng.normal(size=60)
    x = step + rng.normal(0.0, 0.5, size=(20, 60))
    honest, own = np.delete(x, [3, 7, 11, 19], axis=0), x[[3, 7, 11, 19]]
    x[[3, 7, 11, 19]] = UPDATE_ATTACKS[attack](honest, own, rng)
    updates = [
        Contribution(site=f"site-{i:02}", delta=one.astype(np.float32), num_examples=1 + 10**6 * (i in (3, 7)), steps=1)
        for i, one in enumerate(x)
    ]
    spread = float(np.linalg.norm(honest - honest.mean(axis=0), axis=1).mean())
    return updates, honest.mean(axis=0), spread


def error(strategy: Strategy, updates: Sequence[Contribution], honest: Accumulator) -> float:
    return float(np.linalg.norm(stepped(strategy, np.zeros(60, np.float32), updates) - honest))


@pytest.mark.parametrize("attack", UPDATE_ATTACKS)
@pytest.mark.parametrize("nnm", [False, True])
@pytest.mark.parametrize("name", COMPLETE)
def test_four_hostile_sites_of_twenty_move_it_less_than_honest_sites_differ(
    name: str, attack: str, *, nnm: bool
) -> None:
    for seed in range(2):
        updates, honest, spread = toy(attack, seed)
        assert error(made(name, {**COMPLETE[name], "hostile": 4, "nnm": nnm}), updates, honest) < 0.75 * spread


def test_the_mean_does_not_withstand_them() -> None:
    for attack in ("sign flip", "Gaussian", "IPM 2"):
        updates, honest, spread = toy(attack, 0)
        assert error(made("fedavg"), updates, honest) > 1.5 * spread


def test_multi_krum_says_whom_it_left_out() -> None:
    strategy = made("multi_krum", {"hostile": 4})
    updates, _honest, _spread = toy("sign flip", 0)
    stepped(strategy, np.zeros(60, np.float32), updates)
    assert strategy.left_out == ("site-03", "site-07", "site-11", "site-19")


@pytest.mark.parametrize(
    ("hostile", "sites", "count"), [(0, 1, 0), (4, 20, 4), (0.2, 15, 3), (0.2, 16, 4), (0.01, 3, 1), (0.49, 100, 49)]
)
def test_a_share_is_rounded_up(hostile: float, sites: int, count: int) -> None:
    strategy = made("trimmed_mean", {"hostile": hostile})
    assert strategy.hostile_among(sites) == count  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "hostile", "sites", "needed"),
    [("trimmed_mean", 2, 4, 5), ("median", 0.4, 2, 3), ("multi_krum", 2, 6, 7), ("trimmed_mean", 10, 20, 21)],
)
def test_more_hostile_sites_than_a_rule_withstands_are_refused(
    name: str, hostile: float, sites: int, needed: int
) -> None:
    strategy = made(name, {"hostile": hostile})
    with pytest.raises(StudyFailed, match=rf"hostile sites among {sites}: for so many it needs {needed}\."):
        strategy.require([str(number) for number in range(sites)])
    if isinstance(hostile, int):
        strategy.require([str(number) for number in range(needed)])
    (updates,) = rounds(1)
    if sites <= len(updates):  # so many delivered, whatever number opened the study
        with pytest.raises(StudyFailed, match=f"among {sites}"):
            stepped(strategy, start(), updates[:sites])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("trimmed_mean", {}, r"aggregation\.hostile: this key is required and missing"),
        ("multi_krum", {"nnm": True}, r"aggregation\.hostile: this key is required and missing"),
        ("median", {"nnm": True}, r"aggregation\.hostile: this key is required with nnm = true"),
        ("fltrust", {"nnm": True, "root": "a"}, r"aggregation\.hostile: this key is required with nnm = true"),
        ("fltrust", {}, r"aggregation\.root: this key is required and missing"),
        ("centered_clipping", {}, r"aggregation\.radius: this key is required and missing"),
        ("norm_bound", {}, r"aggregation\.bound: this key is required and missing"),
        ("trimmed_mean", {"hostile": 0.5}, r"aggregation\.hostile: found 0\.5"),
        ("trimmed_mean", {"hostile": -1}, r"aggregation\.hostile: found -1"),
        ("trimmed_mean", {"hostile": True}, r"aggregation\.hostile: found true"),
    ],
)
def test_what_an_option_lacks_is_said(name: str, options: Options, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        made(name, options)


def test_inner_products_of_mapped_updates_are_those_in_memory(tmp_path: Path) -> None:
    (updates,) = rounds(1)
    mapped = [keep([one.delta], one.delta.size, tmp_path, small=0) for one in updates]
    assert all(is_mapped(one) for one in mapped)
    assert np.allclose(gram_of(mapped), matrix(updates) @ matrix(updates).T, rtol=1e-12)
