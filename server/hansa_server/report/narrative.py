"""The sentences of the report: how the study ended, what it reached, what to do next."""

from collections.abc import Iterator
from dataclasses import dataclass

from hansa_server.figures import NAMES
from hansa_server.report import columns, notation, protection
from hansa_server.report.comparison import Comparison
from hansa_server.results import Ensemble, Final, Noise, PersonalSummary, Results, Scores, Summary


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
    rounds = notation.plural(len(results.rounds), "round")
    start = f"After {rounds} at {notation.plural(len(results.sites), 'site')}"
    whole, worst = final.weighted_mean, final.worst_site
    if whole is None:
        return f"{start} there is a shared model. {_untested(results, final)}"
    about = "about " if protection.has_noised_counts(results) else ""
    tested = notation.plural(whole.num_examples, "test example")
    figure = columns.written_main(results, whole)
    if results.target == "classes":
        sentence = f"{start}, the shared model classifies {about}{figure} of {about}{tested} correctly"
    else:
        sentence = (
            f"{start}, the shared model has {_article(results)} {columns.main_name(results)} of {figure} on {tested}"
        )
    if worst is not None:
        sentence += (
            f", and {about}{columns.written_main(results, worst)} at {worst.site}, the site where it does worst."
        )
    else:
        sentence += "."
        if protection.keeps_site_figures(results):
            sentence += f" The sites' own figures are {protection.why_kept(results)}."
    if whole.roc_auc is not None and results.target == "reconstruction":
        sentence += f" By that error it tells anomalies from normal examples with a ROC AUC of {whole.roc_auc:.3f}."
    if about:
        sentence += " The counts behind these figures have noise in them."
    return f"{sentence} {verdicts(comparisons)}" if comparisons else sentence


def _untested(results: Results, final: Final) -> str:
    """Say why there is no accuracy over the sites, and what the coordinator's own test set says."""
    if protection.lets_no_counts_out(results):
        why = f"Differential privacy let no {protection.counted(results)} out, so nobody knows how good it is over all "
        why += "sites; each site can test it on its own data."
    else:
        why = "The sites' counts could not be added up, so nobody knows how good it is over all sites."
    if final.coordinator is None:
        return why
    tested = notation.plural(final.coordinator.num_examples, "example")
    share = columns.written_main(results, final.coordinator)
    if results.target != "classes":
        return f"{why} Its {columns.main_name(results)} on the coordinator's own {tested} is {share}."
    return f"{why} It classifies {share} of the coordinator's own {tested} correctly."


def _article(results: Results) -> str:
    return "an" if columns.main_figure(results) in ("accuracy", "rmse") else "a"


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
    """Return the four figures: weighted mean, site mean, worst site, worst site against its own local-only model.

    With personalisation what the sites' own models reach follows, and where the plan has an ensemble what that does.

    Where protection keeps the sites' own figures at home there are fewer: what is known over all sites, what the
    coordinator tested itself, one that says why the others are missing, and what the noise cost.
    """
    if protection.keeps_site_figures(results):
        return tuple(_protected_headlines(results))
    final, noise = results.final, protection.noise_of(results)
    if final is None:
        note = _not_measured(results)
        figure = columns.main_name(results)
        names = (f"Weighted mean {figure}", f"Site mean {figure}", "Worst site", "Worst site against training alone")
        return tuple(Headline(name=name, figure=notation.MISSING, note=note) for name in names)
    return (
        _weighted_mean(results, final),
        _site_mean(results, final),
        _worst_site(results, final),
        _epsilon(noise) if noise is not None else _against_local(results),
        *([_personal(results, final.personal)] if final.personal is not None else []),
        *([_ensemble(results, final.ensemble)] if final.ensemble is not None else []),
    )


def _figure(results: Results, scores: Scores | None) -> tuple[str, str]:
    """Return the main figure and its unit, which stands smaller beside it."""
    value = columns.main_value(results, scores)
    return columns.bare_main(results, value), "" if value is None else columns.main_unit(results)


def _personal(results: Results, own: PersonalSummary) -> Headline:
    """Say what the sites' own models reach, and whether a site would have done better without the federation."""
    note = f"{own.method}; worst site {columns.written_main(results, own.worst_site)} at {own.worst_site.site}"
    command = ""
    if own.below_local_only is None:
        note, command = f"{note}; beside training alone: run with", "--baselines"
    elif own.below_local_only:
        note = f"{note}; below training alone: {', '.join(own.below_local_only)}"
    else:
        note = f"{note}; no site is below training alone"
    figure, unit = _figure(results, own.site_mean)
    return Headline(name="Sites' own models, site mean", figure=figure, unit=unit, note=note, command=command)


def _ensemble(results: Results, ensemble: Ensemble) -> Headline:
    """Say what the last versions reach as one, beside the last one alone."""
    name = f"Ensemble of the last {len(ensemble.rounds)} versions"
    if ensemble.weighted_mean is None:
        why = "no counts of it leave the sites" if protection.noise_of(results) else "the counts could not be added up"
        return Headline(name=name, figure=notation.MISSING, note=why)
    note = f"weighted mean {columns.main_name(results)} of rounds {ensemble.rounds[-1]} to {ensemble.rounds[0]} as one"
    if (worst := ensemble.worst_site) is not None:
        note += f"; worst site {columns.written_main(results, worst)} at {worst.site}"
    figure, unit = _figure(results, ensemble.weighted_mean)
    return Headline(name=name, figure=figure, unit=unit, note=note)


def _weighted_mean(results: Results, final: Final) -> Headline:
    name, whole = f"Weighted mean {columns.main_name(results)}", final.weighted_mean
    if whole is None:
        why = (
            "no counts left the sites" if protection.lets_no_counts_out(results) else "the counts could not be added up"
        )
        return Headline(name=name, figure=notation.MISSING, note=why)
    examples = notation.plural(whole.num_examples, "test example")
    note = (
        f"about {examples}, counted with noise" if protection.has_noised_counts(results) else f"all {examples} together"
    )
    interval = columns.written_interval(results, whole)
    if interval and not protection.has_noised_counts(results):
        note += f"; 95% interval {interval}"
    figure, unit = _figure(results, whole)
    return Headline(name=name, figure=figure, unit=unit, note=note)


def _site_mean(results: Results, final: Final) -> Headline:
    figure, unit = _figure(results, final.site_mean)
    return Headline(
        name=f"Site mean {columns.main_name(results)}",
        figure=figure,
        unit=unit,
        note=f"each of {notation.plural(len(results.sites), 'site')} counts the same",
    )


def _worst_site(results: Results, final: Final) -> Headline:
    name, worst = "Worst site", final.worst_site
    if worst is None:
        return Headline(name=name, figure=notation.MISSING, note="not measured")
    noised = ", counted with noise" if protection.has_noised_counts(results) else ""
    figure, unit = _figure(results, worst)
    return Headline(
        name=name,
        figure=figure,
        unit=unit,
        note=f"on {'about ' if noised else ''}{notation.plural(worst.num_examples, 'test example')}{noised}",
        site=worst.site,
    )


def _protected_headlines(results: Results) -> Iterator[Headline]:
    final, noise = results.final, protection.noise_of(results)
    if final is None:
        yield Headline(
            name=f"Weighted mean {columns.main_name(results)}", figure=notation.MISSING, note=_not_measured(results)
        )
    else:
        yield _weighted_mean(results, final)
        if final.coordinator is not None:
            figure, unit = _figure(results, final.coordinator)
            yield Headline(
                name=f"{_capital(columns.main_name(results))} on the coordinator's own test set",
                figure=figure,
                unit=unit,
                note=f"on {notation.plural(final.coordinator.num_examples, 'example')} that no site holds",
            )
        if final.ensemble is not None:
            yield _ensemble(results, final.ensemble)
    yield Headline(name="Site mean and worst site", figure=notation.MISSING, note=protection.why_kept(results))
    if noise is not None:
        yield _epsilon(noise)


def _epsilon(noise: Noise) -> Headline:
    if noise.epsilon is None:
        note = f"delta {noise.delta:g}; each site's own ledger knows what was spent"
        return Headline(name="Epsilon, at most", figure=f"{noise.epsilon_budget:g}", note=note)
    note = f"of {noise.epsilon_budget:g}, the study's budget; delta {noise.delta:g}"
    return Headline(name="Epsilon spent", figure=protection.spent(noise.epsilon), note=note)


def _against_local(results: Results) -> Headline:
    name = "Worst site against training alone"
    against = results.final.worst_site_against_local if results.final is not None else None
    if against is None:
        if results.baselines is not None or protection.is_protected(results):
            return Headline(name=name, figure=notation.MISSING, note="not measured")
        return Headline(name=name, figure=notation.MISSING, note="not measured: run with", command="--baselines")
    federated, local_only = against.values
    name += "" if against.figure == columns.main_figure(results) else f", by {NAMES[against.figure]}"
    return Headline(
        name=name,
        figure=columns.written_gain(against),
        unit=columns.unit_of_gain(results, against),
        note=f"{columns.write_figure(results, against.figure, federated)} federated, "
        f"{columns.write_figure(results, against.figure, local_only)} alone",
        site=against.site,
    )


def left_out(results: Results) -> str:
    """Say what the model reaches at a site that took part in no round, beside the others; empty where there is none."""
    final = results.final
    if final is None or final.left_out is None:
        return ""
    stranger, name = final.left_out, columns.main_name(results)
    sentence = (
        f"{stranger.site} was left out: it took part in no round, and on all its "
        f"{notation.plural(stranger.num_examples, 'example')} the last model has {_article(results)} {name} of "
        f"{columns.written_main(results, stranger)}"
    )
    if final.site_mean is None:
        return f"{sentence}."
    return (
        f"{sentence}, beside a mean of {columns.written_main(results, final.site_mean)} over the sites that took part."
    )


def latest_validation(results: Results) -> tuple[int, Summary] | None:
    """Return the last model that the sites evaluated while training, and how many rounds it had."""
    for entry in reversed(results.rounds):
        if entry.incoming.overall_value is not None:
            return entry.round - 1, entry.incoming
    return None


def _not_measured(results: Results) -> str:
    return "not measured: the study ended before the closing exchange" if results.rounds else "no round was finished"


def _unfinished(results: Results) -> str:
    if not results.rounds:
        return "No round was finished, so there is no model to judge."
    latest = latest_validation(results)
    start = "The study ended before its last model was tested."
    if latest is None and protection.lets_no_counts_out(results):
        return f"{start} Differential privacy lets no {protection.counted(results)} out."
    if latest is None:
        return f"{start} No site reported a validation figure."
    rounds, summary = latest
    trained = f"after {notation.plural(rounds, 'round')}" if rounds else "before the first round"
    about = "about " if protection.has_noised_counts(results) else ""
    if results.target != "classes":
        value = columns.write_main(results, summary.overall_value)
        return (
            f"{start} The latest model that the sites validated, {trained}, had {_article(results)} "
            f"{columns.main_name(results)} of {value} on their validation examples."
        )
    return (
        f"{start} The latest model that the sites validated, {trained}, classified "
        f"{about}{notation.percent(summary.weighted_mean_accuracy)} of their validation examples correctly."
    )


def _capital(name: str) -> str:
    return name[0].upper() + name[1:]
