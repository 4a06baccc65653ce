"""The report: one HTML file without scripts or external resources, for a steward, a researcher and an operator.

Names of sites and classes and the purpose come from other people: the template escapes all of them, and the page's
content security policy forbids scripts, so that a name which slipped through would be text still.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hansa_common.metrics import IS_HIGHER_BETTER
from hansa_server.report import columns, curves, explanation, narrative, notation, protection
from hansa_server.report.charts import Group, bar_chart, confusion_chart, nice_ticks, partition_chart, reliability_chart
from hansa_server.report.comparison import compare_all
from hansa_server.report.cross_site import cross_site
from hansa_server.report.templates import make_environment
from hansa_server.results import Results, Scores, SiteResult

FEW_SITES = 15
"""Up to here every site has its bars and its row; above, the worst and the best, and the rest one click away."""
WORST_SHOWN, BEST_SHOWN = 10, 5
CONFUSIONS_SHOWN = 5
WIDE, HALF, NARROW = 760.0, 452.0, 360.0  # px: bars and half a row on a screen, both on a phone

_ENVIRONMENT = make_environment()
_ENVIRONMENT.filters |= {
    "percent": notation.percent,
    "points": notation.points,
    "points_apart": notation.points_apart,
    "loss": notation.loss,
    "count": notation.count,
    "plural": notation.plural,
    "size": notation.size,
    "moment": notation.moment,
    "duration": notation.duration,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """One row of the table of figures; ``kind`` tells sites from rows over all sites."""

    name: str
    scores: Scores | None
    kind: str = "site"


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """One site that was missing for one reason, and in which rounds."""

    site: str
    reason: str
    rounds: str
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of the wall-clock time."""

    name: str
    seconds: float
    share: float


def render(results: Results, plan_toml: str, *, pictures: Sequence[explanation.Picture] = ()) -> str:
    """Return ``report.html``.

    Args:
        results: What the study reached.
        plan_toml: The study file as it was run, shown as it is.
        pictures: Examples that may be shown.
    """
    comparisons = compare_all(results)
    many = len(results.sites) > FEW_SITES
    return _ENVIRONMENT.get_template("page.html.jinja").render(
        results=results,
        plan_toml=plan_toml,
        outcome=narrative.outcome(results),
        sentences=narrative.result_sentences(results, comparisons),
        headlines=narrative.headlines(results),
        curves=_curves(
            results, {f"Validation {columns.main_name(results)}": curves.main_curves, "Loss": curves.loss_curves}
        ),
        validated=curves.has_validation(results),
        bars=_bars(results),
        many=many,
        elided=len(_measured(results)) > FEW_SITES,
        worst_shown=WORST_SHOWN,
        best_shown=BEST_SHOWN,
        comparisons=sorted(comparisons, key=lambda entry: entry.difference) if many else comparisons,
        verdicts=narrative.verdicts(comparisons) if comparisons else "",
        across=cross_site(results),
        left_out=narrative.left_out(results),
        partition=_partition(results),
        confusion=_confusion(results),
        reliability=_reliability(results),
        confusions=_most_frequent(results),
        columns=_columns(results),
        explained=columns.EXPLAINED[results.target],
        main_name=columns.main_name(results),
        main_unit=columns.main_unit(results),
        lower_is_better=not IS_HIGHER_BETTER[columns.main_figure(results)],
        bar_models=_bar_models(results),
        absent_classes=_absent_classes(results),
        overall=_overall(results),
        by_site=_by_site(results),
        looks_at=explanation.sentence(results),
        explanation=explanation.parts(results),
        pictures=pictures,
        privacy=protection.account(results),
        protected=protection.is_protected(results),
        counted=protection.counted(results),
        kept=protection.why_kept(results) if protection.keeps_site_figures(results) else "",
        no_counts=protection.lets_no_counts_out(results),
        noised=protection.has_noised_counts(results),
        untold_times=protection.noise_of(results) is not None,
        shown_sites=sum(bool(site.class_counts) for site in results.sites),
        absences=list(_absences(results)),
        stages=_stages(results),
        slowest_seconds=sum(max((site.seconds for site in entry.sites), default=0.0) for entry in results.rounds),
        resources=_curves(results, {"Seconds a round": curves.seconds_curve, "Payload a round": curves.bytes_curve}),
    )


def _curves(results: Results, drawn: Mapping[str, Callable[[Results, float], str]]) -> dict[str, list[str]]:
    """Return the curves that have a value, by title, each twice: wide, and narrow for a phone."""
    both = {name: _charts(draw(results, HALF), draw(results, NARROW)) for name, draw in drawn.items()}
    return {name: charts for name, charts in both.items() if charts}


def _charts(*charts: str) -> list[str]:
    return [chart for chart in charts if chart]


def _measured(results: Results) -> list[SiteResult]:
    return [site for site in results.sites if columns.main_value(results, site.federated) is not None]


def _bars(results: Results) -> list[str]:
    """Return the bars twice: wide, and narrow for a phone."""
    measured = _measured(results)
    if not measured:
        return []
    models = _bar_models(results)
    entries: list[Group | str] = [_group(results, site, models) for site in measured]
    if len(measured) > FEW_SITES:
        ordered = sorted(
            measured,
            key=lambda site: columns.main_value(results, site.federated) or 0.0,
            reverse=not IS_HIGHER_BETTER[columns.main_figure(results)],
        )
        between = notation.plural(len(ordered) - WORST_SHOWN - BEST_SHOWN, "site")
        entries = [
            *(_group(results, site, models) for site in ordered[:WORST_SHOWN]),
            f"{between} in between",
            *(_group(results, site, models) for site in ordered[-BEST_SHOWN:]),
        ]
    left_out = results.final.left_out if results.final is not None else None
    if left_out is not None:
        values = (columns.main_value(results, left_out), *[None] * (len(models) - 1))
        entries.append(Group(name=f"{left_out.site}, left out", values=values))
    name = columns.main_name(results)
    unit = f", {columns.main_unit(results)}," if columns.main_unit(results) else ""
    label = f"{name[0].upper()}{name[1:]}{unit} on each site's test split: {', '.join(models)}"
    if results.target == "classes":
        return _charts(*(bar_chart(label, models, entries, width=width) for width in (WIDE, NARROW)))
    found = [value for entry in entries if isinstance(entry, Group) for value in entry.values if value is not None]
    ticks = nice_ticks(0.0, 1.0 if columns.main_figure(results) == "c_index" else max(found) or 1.0)

    def write(value: float | None) -> str:
        return columns.bare_main(results, value)

    return _charts(
        *(
            bar_chart(
                label, models, entries, width=width, ticks=ticks, write=write, write_tick=lambda tick: f"{tick:g}"
            )
            for width in (WIDE, NARROW)
        )
    )


def _bar_models(results: Results) -> list[str]:
    """Return whose bars there are; a site's own model where it is another one than the common."""
    models = ["Federated"]
    if results.baselines is not None:
        models += ["Local-only", "Pooled"]
    if any(site.personal is not None and site.personal != site.federated for site in results.sites):
        models.append("Own model")
    return models


def _group(results: Results, site: SiteResult, models: Sequence[str]) -> Group:
    scores = {
        "Federated": site.federated,
        "Local-only": site.local_only,
        "Pooled": site.pooled,
        "Own model": site.personal,
    }
    return Group(name=site.site, values=tuple(columns.main_value(results, scores[model]) for model in models))


def _partition(results: Results) -> str:
    """Draw the sites that let their class counts out; nothing where none does."""
    sites = [site for site in results.sites if site.class_counts]
    if not sites:
        return ""
    return partition_chart([site.site for site in sites], [site.class_counts for site in sites], results.classes)


def _confusion(results: Results) -> str:
    if results.final is None or not results.final.confusion:
        return ""
    return confusion_chart(results.final.confusion, results.classes)


def _reliability(results: Results) -> str:
    """Draw how far the model's confidence can be believed; nothing where its answers' confidences are not known."""
    bins = results.final.reliability if results.final is not None else ()
    return reliability_chart(
        f"Reliability diagram of {notation.plural(sum(entry.num_examples for entry in bins), 'answer')}",
        [(entry.confidence, entry.accuracy, entry.num_examples) for entry in bins],
        write=lambda share: f"{100 * share:.0f}%",
        count=lambda number: notation.plural(number, "answer"),
    )


def _most_frequent(results: Results) -> list[tuple[str, str, int, int]]:
    """Return the most frequent confusions: true class, predicted class, how often, of how many."""
    if results.final is None:
        return []
    wrong = [
        (results.classes[row], results.classes[column], count, sum(counts))
        for row, counts in enumerate(results.final.confusion)
        for column, count in enumerate(counts)
        if count and row != column
    ]
    return sorted(wrong, key=lambda entry: -entry[2])[:CONFUSIONS_SHOWN]


def _absent_classes(results: Results) -> list[str]:
    if results.final is None or not results.final.confusion:
        return []
    return [name for name, counts in zip(results.classes, results.final.confusion, strict=True) if not any(counts)]


def _columns(results: Results) -> list[columns.Column]:
    """Return the figures of the table: of classes all, of other targets those that any row has."""
    listed = columns.FIGURES[results.target]
    rows = [row.scores for row in (*_overall(results), *_by_site(results)) if row.scores is not None]
    if results.final is not None and results.final.coordinator is not None:
        rows.append(results.final.coordinator)
    if results.target == "classes" or not rows:
        return list(listed)
    return [column for column in listed if any(getattr(scores, column.figure) is not None for scores in rows)]


def _by_site(results: Results) -> list[ScoreRow]:
    """Return a row for each site; none where protection keeps all of them at home."""
    if protection.keeps_site_figures(results) and not any(site.federated for site in results.sites):
        return []
    rows: list[ScoreRow] = []
    for site in results.sites:
        rows.append(ScoreRow(name=site.site, scores=site.federated))
        if site.personal is not None and site.personal != site.federated:
            rows.append(ScoreRow(name=f"{site.site}, its own model", scores=site.personal))
        if site.ensemble is not None:
            rows.append(ScoreRow(name=f"{site.site}, the ensemble", scores=site.ensemble))
    return rows


def _overall(results: Results) -> list[ScoreRow]:
    final = results.final
    if final is None:
        return []
    measured = {"Weighted mean": final.weighted_mean, "Site mean": final.site_mean}
    rows = [ScoreRow(name=name, scores=scores, kind="overall") for name, scores in measured.items() if scores]
    if final.ensemble is not None and final.ensemble.weighted_mean is not None:
        rows.append(ScoreRow(name="The ensemble, weighted mean", scores=final.ensemble.weighted_mean, kind="overall"))
    if final.left_out is not None:
        rows.append(ScoreRow(name=f"{final.left_out.site}, left out", scores=final.left_out, kind="overall"))
    if results.baselines is not None:
        rows += [
            ScoreRow(
                name="Local-only, weighted mean", scores=results.baselines.local_only.weighted_mean, kind="baseline"
            ),
            ScoreRow(name="Pooled, weighted mean", scores=results.baselines.pooled.weighted_mean, kind="baseline"),
        ]
    return rows


def _absences(results: Results) -> Iterator[Absence]:
    """Join the rounds that a site missed for the same reason; who missed most comes first."""
    rounds: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for entry in results.rounds:
        for site, reason in entry.missing.items():
            rounds[site, reason].append(entry.round)
    for (site, reason), missed in sorted(rounds.items(), key=lambda item: (-len(item[1]), item[0])):
        yield Absence(site=site, reason=reason, rounds=notation.ranges(tuple(missed)), times=len(missed))


def _stages(results: Results) -> Sequence[Stage]:
    timing = results.timing
    parts = {
        "Setup": timing.setup_seconds,
        "Rounds": timing.rounds_seconds,
        "Closing": timing.closing_seconds,
        "Baselines": timing.baselines_seconds,
    }
    parts["Other"] = max(0.0, timing.total_seconds - sum(parts.values()))
    whole = sum(parts.values())
    return [
        Stage(name=name, seconds=seconds, share=seconds / whole if whole else 0.0)
        for name, seconds in parts.items()
        if seconds > 0
    ]
