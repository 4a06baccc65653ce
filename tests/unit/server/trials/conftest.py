"""Runs without training: results whose accuracy a test sets."""

from collections.abc import Callable
from typing import Any

import pytest

from hansa_server.results import Final, Results, Scores, SiteResult, Summary, Timing, Traffic, WorstSite

Make = Callable[..., Results]


def scores(accuracy: float | None, *, num_examples: int = 100) -> Scores:
    known: dict[str, Any] = dict.fromkeys(
        ("loss", "balanced_accuracy", "precision", "recall", "f1", "roc_auc", "calibration_error"), None
    )
    return Scores(num_examples=num_examples, accuracy=accuracy, **known)


def results_with(
    accuracy: float | None,
    *,
    worst: tuple[str, float] | None = None,
    validation: float | None = None,
    status: str = "completed",
    reason: str = "",
    study: str = "small",
    seed: int = 7,
) -> Results:
    final = Final(
        weighted_mean=scores(accuracy) if accuracy is not None else None,
        site_mean=scores(accuracy) if accuracy is not None else None,
        worst_site=WorstSite(site=worst[0], **scores(worst[1]).model_dump()) if worst else None,
        worst_site_against_local=None,
        confusion=(),
        coordinator=None,
        validation=Summary(
            weighted_mean_accuracy=validation,
            site_mean_accuracy=None,
            worst_site_accuracy=None,
            worst_site=None,
            weighted_mean_loss=None,
        ),
    )
    return Results(
        run="run",
        study=study,
        purpose="A test.",
        plan_digest="ab" * 32,
        status=status,  # type: ignore[arg-type]
        reason=reason,
        engine="inline",
        seed=seed,
        model="logistic",
        parameters=650,
        strategy="fedavg",
        partition="iid",
        data_origin="digits",
        classes=("a", "b"),
        rounds_planned=3,
        started_at="2026-11-25T12:00:00+00:00",
        sites=tuple(
            SiteResult(site=worst[0], examples={}, class_counts=(), federated=scores(worst[1]), rounds_contributed=3)
            for worst in ([worst] if worst else [])
        ),
        rounds=(),
        final=final if status == "completed" else None,
        baselines=None,
        timing=Timing(
            total_seconds=9.0,
            setup_seconds=5.0,
            rounds_seconds=3.0,
            closing_seconds=1.0,
            baselines_seconds=0.0,
            sites_training_seconds=2.0,
            sites_evaluation_seconds=1.0,
        ),
        bytes=Traffic(up=1_000, down=2_000),
        model_sha256="",
        environment={"hansa": "0"},
    )


@pytest.fixture
def make_run_results() -> Make:
    return results_with
