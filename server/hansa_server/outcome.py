"""From a study to its results, and from results to the files of a run."""

import platform
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from typing import Literal

from hansa_common.contract import label_names
from hansa_common.messages import Opened
from hansa_common.metrics import ClassificationCounts, Counts
from hansa_common.parameters import sha256_of
from hansa_common.plan import StudyPlan, dump_plan
from hansa_common.prepared import PREPROCESSING
from hansa_server.baselines import Baselines as Measured
from hansa_server.closing import Closing
from hansa_server.decisions import decisions_of
from hansa_server.figures import (
    against_local,
    baseline_summary,
    below_local,
    main_figure_of,
    mean_over_sites,
    reliability_of,
    scores_of,
    summary,
    summary_of_sum,
    verdict_figure_of,
    worst,
)
from hansa_server.protected import protection_of
from hansa_server.report import load_pictures, metrics_csv, model_card, partition_svg, render
from hansa_server.results import (
    Baselines,
    CrossSite,
    Ensemble,
    Final,
    LeftOutSite,
    PersonalSummary,
    Results,
    Scores,
    SiteResult,
    Summary,
    Timing,
    Traffic,
)
from hansa_server.store import RunFolder
from hansa_server.study import Study

Status = Literal["completed", "stopped", "failed"]


def results_of(study: Study, *, run: str, status: Status, reason: str) -> Results:
    """Gather everything a report shows; a study that ended early has what it reached."""
    plan, closing, baselines = study.plan, study.closing, study.baselines
    federated = {site: _told(plan, scores_of(counts)) for site, counts in closing.test.items()} if closing else {}
    return Results(
        run=run,
        study=plan.name,
        purpose=plan.purpose,
        plan_digest=study.digest,
        status=status,
        reason=reason,
        engine=study.engine,
        seed=plan.seed,
        model=plan.model.name,
        parameters=study.spec.size if study.spec else 0,
        strategy=plan.aggregation.strategy,
        partition=plan.simulation.partition if plan.simulation else None,
        data_origin=next((opened.origin for opened in study.sites.values()), ""),
        classes=label_names(plan.data),
        target=plan.data.target.kind if plan.data.target is not None else "classes",
        unit=getattr(plan.data.target, "unit", ""),
        rounds_planned=plan.rounds.count,
        started_at=study.started_at,
        sites=_sites(study, federated),
        rounds=tuple(study.rounds),
        final=_final(study, federated),
        baselines=Baselines(
            local_only=baseline_summary(baselines.local_only),
            pooled=baseline_summary(baselines.pooled),
            cross_site=_cross_site(baselines, federated),
        )
        if baselines
        else None,
        timing=Timing(
            total_seconds=study.setup_seconds
            + study.rounds_seconds
            + (closing.seconds if closing else 0.0)
            + (baselines.seconds if baselines else 0.0),
            setup_seconds=study.setup_seconds,
            rounds_seconds=study.rounds_seconds,
            closing_seconds=closing.seconds if closing else 0.0,
            baselines_seconds=baselines.seconds if baselines else 0.0,
            sites_training_seconds=sum(site.train_seconds for r in study.rounds for site in r.sites),
            sites_evaluation_seconds=sum(site.seconds - site.train_seconds for r in study.rounds for site in r.sites)
            + (closing.evaluation_seconds if closing else 0.0),
        ),
        bytes=Traffic(up=study.bytes_up, down=study.bytes_down),
        statistics=study.gathered.features if study.gathered else (),
        notices=study.noticed.all,
        explanation=study.explanation,
        protection=protection_of(study.plan, study.names, study.rounds, dimension=_dimension(study)),
        model_sha256=_sha256(study),
        environment=_environment(study),
    )


def _sites(study: Study, federated: Mapping[str, Scores]) -> tuple[SiteResult, ...]:
    test = study.closing.test if study.closing else {}
    local = study.baselines.local_only if study.baselines else {}
    pooled = study.baselines.pooled if study.baselines else {}
    personal = study.closing.personal if study.closing else {}
    ensemble = study.closing.ensemble if study.closing else {}
    contributed = Counter(site.site for r in study.rounds for site in r.sites)
    return tuple(
        SiteResult(
            site=site,
            examples=_examples(opened),
            class_counts=opened.class_counts,
            federated=federated.get(site),
            personal=_optional_scores(personal, site),
            ensemble=_optional_scores(ensemble, site),
            local_only=_optional_scores(local, site),
            pooled=_optional_scores(pooled, site),
            confusion=(_confusion(test[site]) or None) if site in test else None,
            rounds_contributed=contributed[site],
        )
        for site, opened in sorted(study.sites.items())
    )


def _cross_site(baselines: Measured, federated: Mapping[str, Scores]) -> CrossSite | None:
    """Put the federation's model and the sites' own ones beside each other, at every site."""
    if not baselines.across:
        return None
    figure, sites = main_figure_of(baselines.local_only), tuple(sorted(baselines.across))
    return CrossSite(
        figure=figure,
        sites=sites,
        federated=tuple(getattr(federated[site], figure) if site in federated else None for site in sites),
        local_only=tuple(tuple(baselines.across[model][site] for site in sites) for model in sites),
    )


def _final(study: Study, federated: Mapping[str, Scores]) -> Final | None:
    closing = study.closing
    if closing is None:
        return None
    overall = closing.overall[1] if closing.overall else None
    lowest = worst(federated, main_figure_of(closing.test)) if federated else None
    alone = _local_only(study)
    against = against_local(federated, alone, verdict_figure_of(closing.test)) if alone and federated else None
    return Final(
        weighted_mean=_told(study.plan, scores_of(overall)) if overall is not None else None,
        site_mean=mean_over_sites(federated) if federated else None,
        worst_site=lowest,
        worst_site_against_local=against,
        personal=_personal(study, closing),
        ensemble=_ensemble(study, closing),
        confusion=_confusion(overall) if overall is not None else (),
        coordinator=scores_of(closing.coordinator) if closing.coordinator else None,
        left_out=_left_out(study, closing),
        validation=_validation(study.plan, closing),
        decisions=decisions_of(study.plan.evaluation, *closing.overall) if closing.overall else None,
        reliability=reliability_of(overall) if overall is not None else (),
    )


def _left_out(study: Study, closing: Closing) -> LeftOutSite | None:
    if study.left_out is None or closing.left_out is None:
        return None
    return LeftOutSite(site=study.left_out.opened.site, **scores_of(closing.left_out).model_dump())


def _personal(study: Study, closing: Closing) -> PersonalSummary | None:
    """Summarise the sites' own models, and say which site would have done better alone."""
    if study.plan.personalisation is None or not closing.personal:
        return None
    own = {site: scores_of(counts) for site, counts in closing.personal.items()}
    alone = _local_only(study)
    return PersonalSummary(
        method=study.plan.personalisation.method,
        site_mean=mean_over_sites(own),
        worst_site=worst(own, main_figure_of(closing.personal)),
        below_local_only=below_local(own, alone, verdict_figure_of(closing.personal)) if alone else None,
    )


def _ensemble(study: Study, closing: Closing) -> Ensemble | None:
    """Summarise what the last versions reach as one; with differential privacy only which they are."""
    if study.plan.evaluation.ensemble is None:
        return None
    sites = {site: scores_of(counts) for site, counts in closing.ensemble.items()}
    return Ensemble(
        rounds=study.versions.rounds(len(study.rounds)),
        weighted_mean=scores_of(closing.together) if closing.together is not None else None,
        site_mean=mean_over_sites(sites) if sites else None,
        worst_site=worst(sites, main_figure_of(closing.ensemble)) if sites else None,
    )


def _local_only(study: Study) -> dict[str, Scores]:
    return {site: scores_of(counts) for site, counts in study.baselines.local_only.items()} if study.baselines else {}


def _told(plan: StudyPlan, scores: Scores) -> Scores:
    """Leave out the loss where counts are noised: they hold none."""
    return scores if plan.privacy.differential is None else scores.model_copy(update={"loss": None})


def _validation(plan: StudyPlan, closing: Closing) -> Summary:
    found = summary(closing.validation)
    if not closing.validation and closing.overall is not None:
        found = summary_of_sum(closing.overall[0])
    return found if plan.privacy.differential is None else found.model_copy(update={"weighted_mean_loss": None})


def _examples(opened: Opened) -> dict[Literal["train", "validation", "test"], int]:
    """Return the sizes that a site told; it may keep some or all at home."""
    if opened.test:
        return {"train": opened.train, "validation": opened.validation, "test": opened.test}
    return {"train": opened.train} if opened.train else {}


def _dimension(study: Study) -> int:
    return study.spec.size if study.spec is not None else 0


def _optional_scores(counts: Mapping[str, Counts], site: str) -> Scores | None:
    return scores_of(counts[site]) if site in counts else None


def _confusion(counts: Counts) -> tuple[tuple[int, ...], ...]:
    """Return the confusion matrix of a classifier; empty for other models."""
    if not isinstance(counts, ClassificationCounts):
        return ()
    return tuple(tuple(row) for row in counts.confusion.tolist())


def _sha256(study: Study) -> str:
    return "" if study.model is None else sha256_of(study.model)


def _environment(study: Study) -> dict[str, str]:
    devices = sorted({opened.device for opened in study.sites.values()})
    packages = {name: version(name) for name in ("hansa", "flwr", "numpy")}
    return packages | {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "devices": ", ".join(devices),
    }


def write_results(folder: RunFolder, study: Study, results: Results) -> None:
    """Write every file that a run leaves.

    Raises:
        StorageError: The disk is full or fails; no file is half-written.
    """
    if study.model is not None and study.spec is not None:
        metadata = {"study": results.study, "plan_digest": results.plan_digest, "sha256": results.model_sha256}
        folder.write_tensors("model.safetensors", dict(study.spec.split(study.model)), metadata)
        folder.write("MODEL_CARD.md", model_card(results, study.plan))
        if study.gathered is not None:
            folder.write(PREPROCESSING, study.gathered.prepared.model_dump_json(indent=2))
    folder.write("metrics.json", results.model_dump_json(indent=2))
    folder.write("metrics.csv", metrics_csv(results))
    pictures = load_pictures(folder.path, study.plan)
    folder.write("report.html", render(results, dump_plan(study.plan), pictures=pictures))
    if any(site.class_counts for site in results.sites):
        folder.write("partition.svg", partition_svg(results))
