"""The sentences of the report: how the study ended, what it reached, what to do next."""

from dataclasses import dataclass

from hansa_server.report import notation
from hansa_server.report.comparison import Comparison
from hansa_server.results import Results, Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """One of the four figures: what it is, the figure, and a line that puts it in its place."""

    name: str
    figure: str
    note: str
    site: str = ""
    unit: str = ""
    command: str = ""


def outcome(results: Results) -> str:
    """Say in one sentence how the study ended."""
    rounds = f"{notation.count(len(results.rounds))} of {notation.plural(results.rounds_planned, 'round')}"
    if results.status == "completed":
        return f"Completed, {rounds}"
    return f"{results.status.capitalize()} after {rounds}"


def result_sentences(results: Results, comparisons: tuple[Comparison, ...]) -> str:
    """Say in plain words what the study reached."""
    final = results.final
    if final is None:
        return _unfinished(results)
    whole = final.weighted_mean
    rounds = notation.plural(len(results.rounds), "round")
    sentence = (
        f"After {rounds} at {notation.plural(len(results.sites), 'site')}, the shared model classifies "
        f"{notation.percent(whole.accuracy)} of {notation.plural(whole.num_examples, 'test example')} correctly, and "
        f"{notation.percent(final.worst_site.accuracy)} at {final.worst_site.site}, the site where it does worst."
    )
    return f"{sentence} {verdicts(comparisons)}" if comparisons else sentence


def verdicts(comparisons: tuple[Comparison, ...]) -> str:
    """Count the sites that gain, lose and show no clear difference."""
    total = len(comparisons)
    gains, loses = (sum(comparison.verdict == which for comparison in comparisons) for which in ("gains", "loses"))
    if gains == total:
        who = "every site" if total > 1 else "the site"
        return f"Against training alone, {who} gains."
    unclear = total - gains - loses
    if unclear == total:
        who = "no site shows a" if total > 1 else "the site shows no"
        return f"Against training alone, {who} clear difference."
    parts = [f"{notation.count(gains)} of {notation.plural(total, 'site')} {'gains' if gains == 1 else 'gain'}"]
    parts.append("none loses" if not loses else f"{notation.count(loses)} {'loses' if loses == 1 else 'lose'}")
    if unclear:
        parts.append(f"{notation.count(unclear)} {'shows' if unclear == 1 else 'show'} no clear difference")
    return f"Against training alone, {', '.join(parts[:-1])} and {parts[-1]}."


def headlines(results: Results) -> tuple[Headline, ...]:
    """Return the four figures: weighted mean, site mean, worst site, worst site against its own local-only model."""
    final = results.final
    if final is None:
        note = _not_measured(results)
        names = ("Weighted mean accuracy", "Site mean accuracy", "Worst site", "Worst site against training alone")
        return tuple(Headline(name=name, figure=notation.MISSING, note=note) for name in names)
    return (
        Headline(
            name="Weighted mean accuracy",
            figure=notation.percent(final.weighted_mean.accuracy),
            note=f"all {notation.plural(final.weighted_mean.num_examples, 'test example')} together",
        ),
        Headline(
            name="Site mean accuracy",
            figure=notation.percent(final.site_mean.accuracy),
            note=f"each of {notation.plural(len(results.sites), 'site')} counts the same",
        ),
        Headline(
            name="Worst site",
            figure=notation.percent(final.worst_site.accuracy),
            note=f"on {notation.plural(final.worst_site.num_examples, 'test example')}",
            site=final.worst_site.site,
        ),
        _against_local(results),
    )


def _against_local(results: Results) -> Headline:
    name = "Worst site against training alone"
    against = results.final.worst_site_against_local if results.final is not None else None
    if against is None:
        if results.baselines is not None:
            return Headline(name=name, figure=notation.MISSING, note="not measured")
        return Headline(name=name, figure=notation.MISSING, note="not measured: run with", command="--baselines")
    return Headline(
        name=name,
        figure=notation.points(against.difference),
        unit="points",
        note=f"{notation.percent(against.federated_accuracy)} federated, "
        f"{notation.percent(against.local_only_accuracy)} alone",
        site=against.site,
    )


def latest_validation(results: Results) -> tuple[int, Summary] | None:
    """Return the last model that the sites evaluated while training, and how many rounds it had."""
    for entry in reversed(results.rounds):
        if entry.incoming.weighted_mean_accuracy is not None:
            return entry.round - 1, entry.incoming
    return None


def _not_measured(results: Results) -> str:
    return "not measured: the study ended before the closing exchange" if results.rounds else "no round was finished"


def _unfinished(results: Results) -> str:
    if not results.rounds:
        return "No round was finished, so there is no model to judge."
    latest = latest_validation(results)
    start = "The study ended before its last model was tested."
    if latest is None:
        return f"{start} No site reported a validation figure."
    rounds, summary = latest
    trained = f"after {notation.plural(rounds, 'round')}" if rounds else "before the first round"
    return (
        f"{start} The latest model that the sites validated, {trained}, classified "
        f"{notation.percent(summary.weighted_mean_accuracy)} of their validation examples correctly."
    )
