"""The model card, which goes with a model wherever it goes (Mitchell et al., "Model Cards for Model Reporting")."""

import html
import re
from collections.abc import Iterator
from typing import Literal

from hansa_common.contract import ArrayContract, ImageContract, outputs
from hansa_common.plan import StudyPlan
from hansa_server.report import explanation, notation, protection
from hansa_server.report.columns import EXPLAINED, FIGURES, Column, written_main
from hansa_server.report.comparison import compare_all
from hansa_server.report.narrative import headlines, left_out, result_sentences
from hansa_server.results import Results, Scores, SiteResult

CLASSES_LISTED = 50
_ELSEWHERE = "It has been tested only on data of the sites above; how it does elsewhere nobody knows."
_EXPOSURE = (
    "Only weight updates left the sites, but this run used neither secure aggregation nor differential privacy: the "
    "server saw each site's update, and updates and model may reveal something about single examples."
)
LOADING = """```python
from pathlib import Path

from hansa_common.models import ARCHITECTURES
from hansa_common.plan import read_plan
from safetensors.torch import load_file

plan = read_plan(Path("plan.toml"))
network = ARCHITECTURES.find(plan.model.name).build(plan.model_options(), plan.data)
network.load_state_dict(load_file("model.safetensors"))
network.eval()
```"""
LOADING_WITH_BACKBONE = """```python
from pathlib import Path

from hansa_common.models.assembly import load_model
from hansa_common.plan import read_plan
from safetensors.torch import load_file

plan = read_plan(Path("plan.toml"))
tensors = load_file("model.safetensors")  # what was trained; the rest is in the backbone's file
network = load_model(plan.model, plan.data, tensors, folder=Path("weights"))
```"""

LOADING_ENSEMBLE = """```python
from pathlib import Path

from hansa_common.models.ensemble import load_ensemble, load_members
from hansa_common.plan import read_plan

plan = read_plan(Path("plan.toml"))
members = load_members(Path("versions"))
network = load_ensemble(plan.model, plan.data, members, folder={folder})
```"""

_MOST_FEATURES = 60  # listed in the card


def model_card(results: Results, plan: StudyPlan) -> str:
    """Return ``MODEL_CARD.md``: what the model is, what it is for, how good it is, and what nobody has checked.

    Args:
        results: What the study reached.
        plan: The plan that it ran.
    """
    sections = (
        f"# Model card: {_plain(results.study)}",
        _what(results),
        f"## Intended purpose\n\n{_plain(plan.purpose)}\n\nAny other use has not been looked at.",
        f"## Data\n\n{_data(results, plan)}",
        f"## Metrics\n\n{_metrics(results)}",
        f"## How it was trained\n\n{_training(results, plan)}",
        *((f"## What it looks at\n\n{_explanation(results)}",) if results.explanation is not None else ()),
        *((f"## Privacy\n\n{_privacy(results)}",) if protection.is_protected(results) else ()),
        f"## Limits\n\n{_limits(results)}",
        f"## Provenance\n\n{_provenance(results)}",
        f"## How to load it\n\n{_loading(plan)}",
        _inputs(plan),
    )
    return "\n\n".join(sections) + "\n"


def _what(results: Results) -> str:
    ended = {
        "completed": "The study ran to its end.",
        "stopped": "**The study was stopped before its end.** " + _plain(results.reason),
        "failed": "**The study failed before its end.** " + _plain(results.reason),
    }[results.status]
    return (
        f"{_kind(results)}: the architecture `{results.model}` with "
        f"{notation.plural(results.parameters, 'parameter')}, trained by federated learning at "
        f"{notation.plural(len(results.sites), 'site')} in {notation.plural(len(results.rounds), 'round')}. "
        f"{ended.strip()}"
    )


def _kind(results: Results) -> str:
    match results.target:
        case "number":
            return "A predictor of a number" + (f" in {_plain(results.unit)}" if results.unit else "")
        case "survival":
            return "A model of the relative hazard of an event"
        case "reconstruction":
            return "A model that reconstructs what is usual; its error is an anomaly score"
    return f"A classifier of {notation.plural(len(results.classes), 'class')}"


def _data(results: Results, plan: StudyPlan) -> str:
    contract = plan.data
    shape = " x ".join(str(length) for length in contract.feature_shape)
    if isinstance(contract, ImageContract):
        kind = f"Images of {contract.channels} x {contract.height} x {contract.width} (channels, height, width)"
    elif isinstance(contract, ArrayContract) and contract.windows is not None:
        names = ", ".join(map(_plain, contract.windows.columns))
        kind = f"Windows of {notation.plural(contract.shape[0], 'row')} of {names}"
    elif isinstance(contract, ArrayContract):
        kind = f"Arrays of {shape}"
    else:
        kind = f"Tables with {notation.plural(len(contract.columns), 'column')}, {shape} features"
    origin = f"Origin: {_plain(results.data_origin)}."
    if results.partition is not None:
        origin += f" The sites are simulated: one data set, split on one machine by `{_code(results.partition)}`."
    rows = [f"| {_plain(site.site)} | {' | '.join(_sizes(site))} |" for site in results.sites]
    table = "\n".join(("| site | training | validation | test |", "|---|--:|--:|--:|", *rows))
    classes = ", ".join(_plain(name) for name in results.classes[:CLASSES_LISTED])
    if len(results.classes) > CLASSES_LISTED:
        classes += f" and {len(results.classes) - CLASSES_LISTED} more"
    if results.sites and not any(site.examples for site in results.sites):
        names = ", ".join(_plain(site.site) for site in results.sites)
        table = f"The sites kept their numbers of examples at home: {names}."
    learned = f"; classes: {classes}" if results.target == "classes" else ""
    if isinstance(contract, ArrayContract) and contract.text is not None:
        kind += f", ids of {contract.text.tokens}: `hansa_common.texts.Tokeniser` makes them of a text"
    return f"{kind}{learned}. {origin}\n\n{table}{_statistics(results, plan)}"


def _statistics(results: Results, plan: StudyPlan) -> str:
    """Say what is done to the features before the model sees them, and by which statistics."""
    if not results.statistics:
        return ""
    preprocessing, steps = plan.preprocessing, []
    condition = preprocessing.condition
    if preprocessing.missing != "refuse":
        steps.append(f"missing values are filled in with the {preprocessing.missing}")
    if preprocessing.clip_quantiles is not None:
        low, high = preprocessing.clip_quantiles
        steps.append(f"numbers are clipped to the quantiles {low:g} and {high:g}")
    if preprocessing.standardise != "none":
        within = f" within {len(condition.levels)} conditions by '{_plain(condition.column)}'" if condition else ""
        steps.append(f"features are standardised{within}")
    if preprocessing.vocabulary is not None:
        steps.append(f"the {preprocessing.vocabulary:,} tokens that most texts hold keep an id of their own")
    rows = [
        f"| {_plain(one.name)} | {one.count:,} | {one.missing:,} | {one.mean:.6g} | {one.deviation:.6g} |"
        for one in results.statistics[:_MOST_FEATURES]
    ]
    left = len(results.statistics) - _MOST_FEATURES
    more = f"\n\nand {left:,} more in `metrics.json`." if left > 0 else ""
    head = ("| feature | values | missing | mean | standard deviation |", "|---|--:|--:|--:|--:|")
    return (
        f"\n\nBefore the model sees them, {', then '.join(steps)}, by the statistics of all sites' training splits "
        "together; `preprocessing.json` beside the model has the numbers.\n\n" + "\n".join((*head, *rows)) + more
    )


def _sizes(site: SiteResult) -> Iterator[str]:
    """Write the sizes of the three splits; what is not known is a dash."""
    splits: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")
    for split in splits:
        yield notation.count(site.examples[split]) if split in site.examples else notation.MISSING


def _metrics(results: Results) -> str:
    lines = [_plain(result_sentences(results, compare_all(results))), ""]
    for headline in headlines(results):
        site = f" ({_plain(headline.site)})" if headline.site else ""
        unit = f" {headline.unit}" if headline.unit else ""
        command = f" `{headline.command}`" if headline.command else ""
        lines.append(f"* {headline.name}: **{headline.figure}{unit}**{site}, {_plain(headline.note)}{command}")
    if protection.keeps_site_figures(results) and not any(site.federated for site in results.sites):
        return "\n".join([*lines, "", f"The sites' own figures are {protection.why_kept(results)}."])
    shown = _shown(results)
    names = [column.name if column.name[:2].isupper() else column.name.lower() for column in shown]
    lines += ["", f"| site | test examples | {' | '.join(names)} |", "|---|" + "--:|" * (1 + len(shown))]
    for entry in results.sites:
        lines.append(f"| {_plain(entry.site)} | {_cells(results, entry.federated)} |")
        if entry.personal is not None:
            lines.append(f"| {_plain(entry.site)}, its own model | {_cells(results, entry.personal)} |")
        if entry.ensemble is not None:
            lines.append(f"| {_plain(entry.site)}, the ensemble | {_cells(results, entry.ensemble)} |")
    lines += ["", f"{EXPLAINED[results.target]}."]
    return "\n".join(lines)


def _shown(results: Results) -> list[Column]:
    return [column for column in FIGURES[results.target] if column.in_card]


def _cells(results: Results, scores: Scores | None) -> str:
    shown = _shown(results)
    if scores is None:
        return " | ".join([notation.MISSING] * (1 + len(shown)))
    written = (column.write(getattr(scores, column.figure)) for column in shown)
    return " | ".join((notation.count(scores.num_examples), *written))


def _training(results: Results, plan: StudyPlan) -> str:
    training = plan.training
    length = (
        notation.plural(training.epochs, "epoch")
        if training.epochs is not None
        else notation.plural(training.steps or 0, "step")
    )
    return "\n".join(
        (
            f"* {length} of `{training.optimizer}` a round at each site, in batches of {training.batch_size}",
            f"* learning rate {training.learning_rate:g} ({training.schedule}), {training.precision}",
            f"* aggregated by `{_code(results.strategy)}`, {len(results.rounds)} of {results.rounds_planned} rounds",
            f"* engine `{_code(results.engine)}`, seed {results.seed}, started {_plain(results.started_at)}",
        )
    )


def _explanation(results: Results) -> str:
    names = explanation.strongest(results)
    strongest = f" What matters most: {', '.join(_plain(name) for name in names)}." if names else ""
    return (
        f"{_plain(explanation.sentence(results))}{strongest} An attribution tells what this model used, not what "
        "causes the outcome."
    )


def _privacy(results: Results) -> str:
    said = protection.account(results)
    lines = [_plain(said.summary), ""]
    lines += [
        f"* {fact.name}: **{_plain(fact.value)}**{f', {_plain(fact.note)}' if fact.note else ''}" for fact in said.facts
    ]
    for title, words in said.paragraphs:
        lines += ["", f"**{title}.** {_plain(words)}"]
    return "\n".join(lines)


def _elsewhere(results: Results) -> str:
    """Say what is known of sites that took no part."""
    said = left_out(results)
    return f"{_plain(said)} How it does at other places nobody knows." if said else _ELSEWHERE


def _limits(results: Results) -> str:
    elsewhere = _elsewhere(results)
    limits = [
        _exposure(results),
        elsewhere,
        "One run with one seed: another seed gives other figures, by an amount that was not measured.",
        "It has not been checked for decisions about people, nor compared between groups of people.",
    ]
    limits.insert(0, _tested(results))
    if results.final is not None and results.final.weighted_mean is None:
        limits.remove(elsewhere)
    if results.partition is not None:
        limits.append("The sites were simulated from one data set; real institutions differ more.")
    if results.baselines is None:
        limits.append("Whether a site does better with it than with a model of its own was not measured.")
    return "\n".join(f"* {limit}" for limit in limits)


def _exposure(results: Results) -> str:
    """Say what updates and model may give away."""
    if not protection.is_protected(results):
        return _EXPOSURE
    noise = protection.noise_of(results)
    if noise is None:
        reveals = "the sum of the updates, and the model, may reveal something about single examples"
    else:
        whom = "one person of a site" if noise.kind == "example" else "one site"
        reveals = f"what the model may reveal about {whom} is limited by epsilon and delta, which is not nothing"
    return f"What the coordinator could read of each site is said under Privacy; {reveals}."


def _tested(results: Results) -> str:
    """Say how unequal it is over the sites, as far as anybody knows."""
    final = results.final
    if final is None:
        return "**It has not been tested.** The study ended before the closing exchange."
    if final.weighted_mean is None:
        only = "; only the coordinator's own test set says something" if final.coordinator else ""
        return f"**How good it is at the sites is not known**: no {protection.counted(results)} left them{only}."
    whole = written_main(results, final.weighted_mean)
    if final.worst_site is None:
        return (
            f"It may be much worse at one site than the {whole} over all test examples: the sites' own figures are "
            f"{protection.why_kept(results)}."
        )
    worst = final.worst_site
    return (
        f"It is not equally good everywhere: {whole} over all test examples, but {written_main(results, worst)} at "
        f"{_plain(worst.site)}."
    )


def _provenance(results: Results) -> str:
    versions = ", ".join(f"{_plain(name)} {_plain(version)}" for name, version in results.environment.items())
    return "\n".join(
        (
            f"* run `{_code(results.run)}`",
            f"* plan digest (SHA-256) `{_code(results.plan_digest)}`",
            f"* parameters (SHA-256, little-endian float32) `{_code(results.model_sha256)}`",
            f"* {versions or 'versions were not recorded'}",
        )
    )


def _loading(plan: StudyPlan) -> str:
    start = "In the folder of the run, with `hansa` and a build of PyTorch installed"
    backbone = plan.model.backbone
    folder = "None" if backbone is None else 'Path("weights")'
    together = ""
    if plan.evaluation.ensemble is not None:
        together = (
            f"\n\nThe last {plan.evaluation.ensemble} versions as one, which answer with the mean of their "
            f"probabilities or numbers:\n\n{LOADING_ENSEMBLE.format(folder=folder)}"
        )
    if backbone is None:
        return f"{start}:\n\n{LOADING}{together}"
    return (
        f"{start}, and `{_code(backbone.file)}` (SHA-256 `{backbone.sha256}`) in a folder `weights`:\n\n"
        f"{LOADING_WITH_BACKBONE}{together}"
    )


def _inputs(plan: StudyPlan) -> str:
    shape = ", ".join(str(length) for length in plan.data.feature_shape)
    scale = " with values in 0..1" if isinstance(plan.data, ImageContract) else ""
    if plan.data.target is not None:
        given = {
            "number": "the number divided by the plan's `scale`",
            "survival": "the logarithm of the relative hazard",
            "reconstruction": "the reconstruction of each feature; its mean squared error is the anomaly score",
        }[plan.data.target.kind]
        return (
            f"It takes `float32 [N, {shape}]`{scale}, as the plan's data contract says, and returns "
            f"`float32 [N, {outputs(plan.data)}]`: {given}."
        )
    return (
        f"It takes `float32 [N, {shape}]`{scale}, as the plan's data contract says, and returns logits "
        f"`float32 [N, {len(plan.data.classes)}]`; their softmax is the probability of each class, in the plan's order."
    )


def _plain(text: str) -> str:
    """Escape text that others wrote: it can be no markup of Markdown or HTML, and stays on its line."""
    joined = " ".join(text.split())
    return re.sub(r"([\\`*_\[\]#|~])", r"\\\1", html.escape(joined, quote=False))


def _code(text: str) -> str:
    """Text between backquotes, where only a backquote has a meaning (and a bar, inside a table)."""
    return " ".join(text.split()).replace("`", "'")
