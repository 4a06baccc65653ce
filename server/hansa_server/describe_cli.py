"""``hansa study describe``: the federation's statistics of the features, before anybody trains."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:  # --help must not wait for NumPy
    from rich.console import Console

    from hansa_common.feature_sums import FeatureSums
    from hansa_common.messages import Message, Task
    from hansa_common.plan import StudyPlan
    from hansa_common.traffic import RoundTraffic
    from hansa_server.engines.inline import Site

_MOST_TOKENS: Final = 200  # that a person reads through
_NAMED: Final = 5  # features of a site in one line
_FAR: Final = 1.0  # standard deviations of a site's mean from the federation's
_UNEVEN: Final = 0.3  # between a site's share of missing values and the federation's


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One feature over the training splits of all sites.

    Attributes:
        name: Of the feature.
        count: Values that are there.
        missing: Share of the rows without one.
        mean: Of the values; ``None`` where no site has enough.
        deviation: Of the values.
        means: Of each site that has enough values.
        too_few: The sites that have too few values to tell.
        warnings: What differs strongly between sites, a sentence each.
    """

    name: str
    count: int
    missing: float
    mean: float | None
    deviation: float | None
    means: Mapping[str, float]
    too_few: tuple[str, ...]
    warnings: tuple[str, ...]


def describe(
    study: Annotated[Path, typer.Argument(help="Study file with [simulation].")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print each feature's statistics over all simulated sites, where these differ, and what a round will move."""
    from dataclasses import asdict  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from hansa_common.plan import read_plan  # noqa: PLC0415

    plan = read_plan(study)
    console = Console()
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in statistics_of(plan)], indent=2, ensure_ascii=False))
        return
    if (reason := _has_none(plan)) is not None:
        console.print(Text(reason), soft_wrap=True)
    else:
        _print_statistics(console, plan, statistics_of(plan))
    console.print(Text(f"\nbytes: {traffic_of(plan)}"), soft_wrap=True)


def _print_statistics(console: "Console", plan: "StudyPlan", found: tuple[Described, ...]) -> None:
    from rich.table import Column, Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    has_text = plan.data.kind == "array" and plan.data.text is not None
    shown = found[:_MOST_TOKENS] if has_text else found
    further = ("values", "missing", "mean", "deviation", "lowest site", "highest site")
    table = Table(Column("feature", overflow="fold"), *further, box=None)
    for one in shown:
        low, high = (pick(one.means.values(), default=None) for pick in (min, max))
        table.add_row(
            Text(one.name),
            f"{one.count:,}",
            f"{one.missing:.1%}",
            *("-" if value is None else f"{value:.4g}" for value in (one.mean, one.deviation, low, high)),
        )
    console.print(table)
    if has_text and (least := plan.preprocessing.minimum_count) > 1:
        says = f"A token in fewer than {least} texts of a site counts there as in none (preprocessing.minimum_count)."
        console.print(Text(says), soft_wrap=True)
    if len(found) > len(shown):
        console.print(f"and {len(found) - len(shown):,} more with --json")
    for warning in (*_gaps(shown), *(warning for one in shown for warning in one.warnings)):
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)


def _gaps(found: tuple[Described, ...]) -> "list[str]":
    """Return a line for each site that cannot tell the mean of some features, however many they are."""
    by_site: dict[str, list[str]] = {}
    for one in found:
        for site in one.too_few:
            by_site.setdefault(site, []).append(one.name)
    return [
        f"{site} has too few values to tell of {len(names):,} of {len(found):,} features: "
        + ", ".join(names[:_NAMED])
        + (", ..." if len(names) > _NAMED else "")
        for site, names in by_site.items()
    ]


def _has_none(plan: "StudyPlan") -> str | None:
    """Return why a plan's data have no statistics by feature; ``None`` where they have."""
    if plan.data.kind == "image":
        return "Images have no statistics by feature."
    if plan.data.kind == "array" and plan.data.text is not None and plan.data.text.learn == "next":
        return "The plan names the tokens, and examples of one text share them: there is nothing to count."
    return None


def statistics_of(plan: "StudyPlan") -> tuple[Described, ...]:
    """Have each simulated site measure its training split, and add up.

    Args:
        plan: With ``[simulation]``; without ``[preprocessing]`` the means and deviations are taken. Of a text the
            features are its tokens, and a mean is the share of texts that hold one.

    Raises:
        UsageError: It cannot be simulated, or has images or parts of texts, which have no such statistics.
        HansaError: The data cannot be read.
    """
    from hansa_common.errors import UsageError  # noqa: PLC0415
    from hansa_common.feature_sums import read  # noqa: PLC0415
    from hansa_common.messages import OpenTask, StatisticsTask  # noqa: PLC0415
    from hansa_common.preprocessing_plan import PreprocessingPlan, statistic_names  # noqa: PLC0415
    from hansa_common.privacy_plan import PrivacyPlan  # noqa: PLC0415
    from hansa_server.simulation import check, inline_sites  # noqa: PLC0415

    names = check(plan)
    if (reason := _has_none(plan)) is not None:
        raise UsageError(reason, advice="Describe a study with tables, arrays, or texts with classes.")
    text = plan.data.text if plan.data.kind == "array" else None
    preprocessing = plan.preprocessing
    if not preprocessing.needs_statistics and text is not None:
        preprocessing = PreprocessingPlan(vocabulary=len(text.vocabulary))
    elif not preprocessing.needs_statistics:
        preprocessing = PreprocessingPlan(standardise="federation")
    # nothing leaves this machine, so neither masks nor noise are in the way; the data are described as they are
    data = plan.data.model_copy(update={"standardise": "none"})
    plan = plan.model_copy(update={"preprocessing": preprocessing, "privacy": PrivacyPlan(), "data": data})
    per_site: dict[str, tuple[FeatureSums, ...]] = {}
    tasks = (OpenTask(plan=plan.model_dump_json()), StatisticsTask(plan_digest=plan.digest()))
    for name, site in zip(names, inline_sites(len(names)).values(), strict=True):
        reply = _asked(site, tasks)
        assert reply.sums is not None
        per_site[name] = read(reply.sums, preprocessing, plan.data)
    described = (
        _described(name, {site: sums[place] for site, sums in per_site.items()})
        for place, name in enumerate(statistic_names(preprocessing, plan.data))
    )
    # of thousands of words those come first that many texts hold
    return tuple(described) if text is None else tuple(sorted(described, key=lambda one: -(one.mean or 0.0)))


def traffic_of(plan: "StudyPlan") -> "RoundTraffic":
    """Have a simulated site make the model, and say what a site moves in a round.

    Raises:
        StudyFailed: The site cannot make it.
        HansaError: The study cannot be simulated.
    """
    from hansa_common.messages import Initial, InitialTask, OpenTask  # noqa: PLC0415
    from hansa_common.traffic import round_traffic  # noqa: PLC0415
    from hansa_server.simulation import inline_sites  # noqa: PLC0415

    (site,) = inline_sites(1).values()
    reply = _asked(site, (OpenTask(plan=plan.model_dump_json()), InitialTask(plan_digest=plan.digest())))
    assert isinstance(reply.header, Initial)
    return round_traffic(plan, reply.header.spec.size)


def _asked(site: "Site", tasks: "Sequence[Task]") -> "Message":
    """Have a simulated site do tasks; return its last reply.

    Raises:
        StudyFailed: It refuses one.
    """
    from hansa_common.errors import StudyFailed  # noqa: PLC0415
    from hansa_common.messages import Message, Refusal, decode, encode  # noqa: PLC0415

    for task in tasks:
        reply = decode(site(encode(Message(header=task))))
        if isinstance(reply.header, Refusal):
            raise StudyFailed(f"{reply.header.site}: {reply.header.reason}")
    return reply


def _described(name: str, by_site: "Mapping[str, FeatureSums]") -> Described:
    whole, *rest = by_site.values()
    for sums in rest:
        whole = whole + sums
    rows = whole.count + whole.missing
    share = whole.missing / rows if rows else 0.0
    means = {site: sums.mean for site, sums in by_site.items() if sums.count}
    mean, deviation = (whole.mean, whole.variance**0.5) if whole.count else (None, None)
    return Described(
        name=name,
        count=whole.count,
        missing=share,
        mean=mean,
        deviation=deviation,
        means=means,
        too_few=tuple(site for site, sums in by_site.items() if not sums.count),
        warnings=tuple(_warnings(name, by_site, share, mean or 0.0, deviation or 0.0)),
    )


def _warnings(
    name: str, by_site: "Mapping[str, FeatureSums]", share: float, mean: float, deviation: float
) -> "list[str]":
    lines = []
    for site, sums in by_site.items():
        if not sums.count:
            continue
        away = (sums.mean - mean) / deviation if deviation else 0.0
        if abs(away) > _FAR:
            side = "above" if away > 0 else "below"
            lines.append(f"{name}: the mean at {site} is {abs(away):.1f} standard deviations {side} the federation's.")
        own = sums.missing / (sums.count + sums.missing)
        if abs(own - share) > _UNEVEN:
            lines.append(f"{name}: missing in {own:.0%} of the rows at {site}, in {share:.0%} of all.")
    return lines
