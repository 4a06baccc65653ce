"""Samples of results that look like those of a study; every figure follows from counts that were drawn at random."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hansa_common.plan import StudyPlan, parse_plan
from hansa_server.figures import no_summary
from hansa_server.results import (
    Baselines,
    BaselineSummary,
    CrossSite,
    Final,
    Masks,
    Noise,
    Protection,
    ReliabilityBin,
    Results,
    RoundResult,
    Scores,
    SiteResult,
    SiteRound,
    Summary,
    Timing,
    Traffic,
    WorstAgainstLocal,
    WorstSite,
)

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NAMES = ("Lübeck", "Hamburg", "Gdańsk", "Visby")
RELIABILITY = tuple(
    ReliabilityBin(confidence=confidence, accuracy=confidence - 0.04, num_examples=100)
    for confidence in (0.35, 0.55, 0.75, 0.95)
)
Counts = npt.NDArray[np.int64]


def _scores(num_examples: int, accuracy: float) -> Scores:
    return Scores(
        num_examples=num_examples,
        loss=1.9 * (1 - accuracy) + 0.1,
        accuracy=accuracy,
        balanced_accuracy=max(0.0, accuracy - 0.012),
        precision=max(0.0, accuracy - 0.005),
        recall=max(0.0, accuracy - 0.012),
        f1=max(0.0, accuracy - 0.01),
        roc_auc=min(1.0, 0.5 + accuracy / 2),
        calibration_error=0.031,
    )


def _confusion(rng: np.random.Generator, tested: Counts, accuracy: float) -> tuple[tuple[int, ...], ...]:
    size = len(tested)
    rows = []
    for true, count in enumerate(tested):
        chances = np.full(size, (1 - accuracy) / (size - 1))
        chances[true] = accuracy
        rows.append(tuple(int(value) for value in rng.multinomial(count, chances / chances.sum())))
    return tuple(rows)


def _three(accuracies: list[float], sizes: list[int], names: list[str]) -> dict[str, Any]:
    worst = int(np.argmin(accuracies))
    whole = float(np.average(accuracies, weights=sizes))
    return {
        "weighted_mean": _scores(sum(sizes), whole),
        "site_mean": _scores(round(float(np.mean(sizes))), float(np.mean(accuracies))),
        "worst_site": WorstSite(site=names[worst], **_scores(sizes[worst], accuracies[worst]).model_dump()),
    }


def _cross_site(names: list[str], federated: list[float], alone: list[float]) -> CrossSite | None:
    """Let every site's model lose a tenth away from home."""
    if not 1 < len(names) <= 30:
        return None
    size = range(len(names))
    rows = tuple(tuple(alone[model] * (1.0 if model == site else 0.9) for site in size) for model in size)
    return CrossSite(figure="accuracy", sites=tuple(names), federated=tuple(federated), local_only=rows)


def _summary(accuracies: list[float], names: list[str]) -> Summary:
    worst = int(np.argmin(accuracies))
    mean = float(np.mean(accuracies))
    return Summary(
        weighted_mean_accuracy=min(1.0, mean + 0.01),
        site_mean_accuracy=mean,
        worst_site_accuracy=accuracies[worst],
        worst_site=names[worst],
        weighted_mean_loss=2.3 * (1 - mean) + 0.05,
    )


def build(
    *,
    names: tuple[str, ...] = NAMES,
    classes: tuple[str, ...] = CIFAR10,
    rounds: int = 20,
    planned: int | None = None,
    baselines: bool = False,
    finished: bool = True,
    absent_class: int | None = None,
    coordinator: bool = False,
    missing: dict[int, dict[str, str]] | None = None,
    **changes: Any,
) -> Results:
    """Draw the results of a study; ``changes`` replace fields of ``Results``."""
    rng = np.random.default_rng(7)
    listed = list(names)
    shares = rng.dirichlet(np.full(len(classes), 0.7), size=len(names))
    sizes = rng.integers(300, 5200, size=len(names))
    held: Counts = np.array([rng.multinomial(size, share) for size, share in zip(sizes, shares, strict=True)])
    if absent_class is not None:
        held[:, absent_class] = 0
    tested: Counts = held // 5
    base = np.linspace(0.74, 0.58, len(names)) + rng.normal(0, 0.02, len(names))

    def accuracies(version: int) -> list[float]:
        grown = base * (1 - 0.85 * np.exp(-version / 5)) + rng.normal(0, 0.008, len(names))
        return [float(value) for value in np.clip(grown, 0.02, 1.0)]

    sites, federated, alone, together, tests = [], [], [], [], []
    for index, name in enumerate(names):
        confusion = _confusion(rng, tested[index], float(base[index]))
        total = int(tested[index].sum())
        right = sum(confusion[k][k] for k in range(len(classes)))
        federated.append(right / total)
        alone.append(min(1.0, right / total - 0.035 + float(rng.normal(0, 0.04))))
        together.append(min(1.0, right / total + 0.04))
        tests.append(total)
        sites.append(
            SiteResult(
                site=name,
                examples={
                    "train": int(held[index].sum() * 0.7),
                    "validation": int(held[index].sum() * 0.1),
                    "test": total,
                },
                class_counts=tuple(int(count) for count in held[index]),
                federated=_scores(total, federated[-1]) if finished else None,
                local_only=_scores(total, alone[-1]) if baselines else None,
                pooled=_scores(total, together[-1]) if baselines else None,
                confusion=confusion if finished else None,
                rounds_contributed=rounds,
            )
        )
    confusion = tuple(
        tuple(sum((site.confusion or ())[row][column] for site in sites) for column in range(len(classes)))
        for row in range(len(classes) if finished else 0)
    )
    worst = int(np.argmin(federated))
    final = Final(
        **_three(federated, tests, listed),
        worst_site_against_local=WorstAgainstLocal(
            site=names[worst],
            federated_accuracy=federated[worst],
            local_only_accuracy=alone[worst],
            difference=federated[worst] - alone[worst],
        )
        if baselines
        else None,
        confusion=confusion,
        reliability=RELIABILITY if finished else (),
        coordinator=_scores(2_000, 0.66) if coordinator else None,
        validation=_summary(accuracies(rounds), listed),
    )
    missed = missing or {}
    entries = []
    for number in range(1, rounds + 1):
        there = [name for name in names if name not in missed.get(number, {})]
        entries.append(
            RoundResult(
                round=number,
                seconds=2.1 + float(rng.normal(0, 0.1)),
                incoming=_summary(accuracies(number - 1), listed),
                train_loss=2.1 * float(np.exp(-number / 9)) + 0.2,
                sites=tuple(
                    SiteRound(
                        site=name,
                        num_examples=700,
                        train_loss=1.0,
                        accuracy=0.5,
                        loss=1.2,
                        seconds=1.2 + float(rng.random()) * 0.4,
                        train_seconds=1.1,
                    )
                    for name in there
                ),
                missing=missed.get(number, {}),
                bytes_up=490_400 * len(there),
                bytes_down=490_600 * len(names),
            )
        )
    values: dict[str, Any] = {
        "run": "cifar10-dirichlet-20260314-091502",
        "study": "cifar10-dirichlet",
        "purpose": "Find out whether four institutions with different pictures learn a better classifier together than "
        "each of them does alone.",
        "plan_digest": "8f0e" * 16,
        "status": "completed" if finished else "stopped",
        "reason": "" if finished else "The operator stopped the study (interrupted from the keyboard).",
        "engine": "local",
        "seed": 42,
        "model": "cnn",
        "parameters": 122_570,
        "strategy": "fedavg",
        "partition": "dirichlet:0.7",
        "data_origin": "CIFAR-10, 10,000 of its training images",
        "classes": classes,
        "rounds_planned": planned or rounds,
        "started_at": "2026-03-14T09:15:02+00:00",
        "sites": tuple(sites),
        "rounds": tuple(entries),
        "final": final if finished else None,
        "baselines": Baselines(
            local_only=BaselineSummary(**_three(alone, tests, listed)),
            pooled=BaselineSummary(**_three(together, tests, listed)),
            cross_site=_cross_site(listed, federated, alone),
        )
        if baselines
        else None,
        "timing": Timing(
            total_seconds=163.2,
            setup_seconds=4.9,
            rounds_seconds=sum(entry.seconds for entry in entries),
            closing_seconds=2.2,
            baselines_seconds=96.4 if baselines else 0.0,
            sites_training_seconds=88.2,
            sites_evaluation_seconds=11.7,
        ),
        "bytes": Traffic(
            up=sum(entry.bytes_up for entry in entries) + 12_000, down=sum(entry.bytes_down for entry in entries)
        ),
        "model_sha256": "3c5a" * 16,
        "environment": {"hansa": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "flwr": "1.41.0", "numpy": "2.3.1"},
    }
    return Results(**(values | changes))


@pytest.fixture
def make_results() -> Callable[..., Results]:
    return build


@pytest.fixture
def plan() -> StudyPlan:
    return parse_plan(
        {
            "name": "cifar10-dirichlet",
            "purpose": "Find out whether it pays.",
            "model": {"name": "cnn"},
            "data": {"kind": "image", "classes": list(CIFAR10), "channels": 3, "height": 32, "width": 32},
            "training": {"epochs": 1},
            "rounds": {"count": 20},
            "simulation": {"data": {"adapter": "cifar10", "path": "cifar10"}, "sites": 4},
        }
    )


MASKS = Masks(ring_bits=32, coordinate_range=0.5, cohort="fixed", sites=4, threshold=3, colluders=1)
NOT_FROM_CONFUSION = {"loss": 0.0, "roc_auc": None, "calibration_error": None}


def noise(kind: str, **changes: Any) -> Noise:
    values: dict[str, Any] = {
        "kind": kind,
        "clipping_bound": 0.75,
        "noise_multiplier": 4.25,
        "epsilon_budget": 8.0,
        "delta": 1e-5,
        "epsilon": None if kind == "example" else 3.4141,
        "unit": "patient_id" if kind == "example" else "site",
    }
    return Noise(**(values | changes))


def _over_all(summary: Summary) -> Summary:
    single = dict.fromkeys(("site_mean_accuracy", "worst_site_accuracy", "worst_site"))
    return summary.model_copy(update=single)


def protect(results: Results, *, masks: Masks | None, noise: Noise | None) -> Results:
    """Take from results what this protection keeps at the sites, as the server would never have had it."""
    no_counts = noise is not None and noise.metrics_noise is None
    noised = noise is not None and not no_counts
    kept = masks is not None or no_counts
    sites = tuple(
        site.model_copy(
            update={"examples": {}, "class_counts": ()}
            | ({"federated": None, "confusion": None, "local_only": None, "pooled": None} if kept else {})
        )
        for site in results.sites
    )
    rounds = tuple(
        entry.model_copy(
            update={
                "incoming": no_summary() if no_counts else _over_all(entry.incoming) if kept else entry.incoming,
                "train_loss": entry.train_loss if noise is None else None,
                "sites": tuple(
                    site.model_copy(
                        update={"num_examples": None, "train_loss": None}
                        | ({"accuracy": None, "loss": None} if kept else {})
                        | ({"seconds": 0.0, "train_seconds": 0.0} if noise is not None else {})
                    )
                    for site in entry.sites
                ),
            }
        )
        for entry in results.rounds
    )
    final = results.final
    if final is not None:
        whole = final.weighted_mean
        if noised and whole is not None:
            whole = whole.model_copy(update=NOT_FROM_CONFUSION)
        changes: dict[str, Any] = {"weighted_mean": whole, "worst_site_against_local": None}
        if noise is not None:
            changes |= {"reliability": ()}
        if kept:
            changes |= {"site_mean": None, "worst_site": None, "validation": _over_all(final.validation)}
        if no_counts:
            changes |= {"weighted_mean": None, "confusion": (), "validation": no_summary()}
        final = final.model_copy(update=changes)
    protection = Protection(
        weights="examples" if noise is None else "equal", clipping_bound=None, masks=masks, noise=noise
    )
    changed = {"sites": sites, "rounds": rounds, "final": final, "protection": protection}
    return Results.model_validate(results.model_copy(update=changed).model_dump(mode="python"))


def _repeated(results: Results) -> Results:
    """Let the third round be repeated twice for one reason and once for another."""
    attempts = ("Visby <b>fell</b> silent", "Visby <b>fell</b> silent", "2 of 4 sites answered")
    rounds = list(results.rounds)
    rounds[2] = rounds[2].model_copy(update={"void_attempts": attempts})
    return results.model_copy(update={"rounds": tuple(rounds)})


def protected(case: str, **shape: Any) -> Results:
    """Build the results of a protected study by the name of its protection."""
    results = build(**shape)
    changing = MASKS.model_copy(update={"cohort": "changing"})
    return {
        "masked": lambda: protect(results, masks=MASKS, noise=None),
        "changing": lambda: _repeated(protect(results, masks=changing, noise=None)),
        "site_server": lambda: protect(results, masks=None, noise=noise("site_server")),
        "masked site_server": lambda: protect(results, masks=MASKS, noise=noise("site_server")),
        "example": lambda: protect(results, masks=None, noise=noise("example")),
        "example, noised counts": lambda: protect(results, masks=None, noise=noise("example", metrics_noise=6.5)),
        "masked example, noised counts": lambda: protect(
            results, masks=MASKS, noise=noise("example", metrics_noise=6.5)
        ),
        "site_distributed": lambda: protect(results, masks=MASKS, noise=noise("site_distributed")),
    }[case]()


CASES = (
    "masked",
    "changing",
    "site_server",
    "masked site_server",
    "example",
    "example, noised counts",
    "masked example, noised counts",
    "site_distributed",
)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_protected() -> Callable[..., Results]:
    return protected
