"""What the sites' statistics add up to: gathered once, on the disk before any round, and shown in the report.

Evolution of ``statistics.json``: ``format`` counts up when a meaning changes; keys are added as optional.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Literal

import numpy as np
from pydantic import ValidationError

from hansa_common.errors import MessageError, StorageError, StudyFailed
from hansa_common.feature_sums import FeatureSums, are_declared, num_words, read
from hansa_common.files import storage
from hansa_common.messages import Message, Statistics, StatisticsTask, Sums
from hansa_common.plan import StudyPlan
from hansa_common.prepared import Prepared, prepare
from hansa_common.preprocessing_plan import statistic_names, statistic_ranges
from hansa_common.settings import Strict
from hansa_server.exchange import problem_of
from hansa_server.masked import Job, MaskedRounds
from hansa_server.panel import Panel
from hansa_server.results import FeatureStatistics
from hansa_server.store import RunFolder

GATHERED: Final = "statistics.json"
_QUARTILES: Final = (0.25, 0.5, 0.75)


class Gathered(Strict):
    """Statistics of all features, and what they make of them."""

    format: Literal[1] = 1
    plan_digest: str
    sites: tuple[str, ...]
    """Whose statistics are in it."""
    features: tuple[FeatureStatistics, ...]
    prepared: Prepared


def gather(words: Sums, plan: StudyPlan, sites: tuple[str, ...]) -> Gathered:
    """Read the sum of the sites' statistics.

    Raises:
        StudyFailed: They add up to nothing possible, or no site has enough values of a feature.
    """
    contract, preprocessing = plan.data, plan.preprocessing
    try:
        merged = read(words, preprocessing, contract)
    except MessageError as error:
        raise StudyFailed(
            f"The sites' statistics add up to nothing possible: {error.message}",
            advice="One of the sites sent statistics of nothing; compare what each says about its data.",
        ) from None
    prepared = prepare(merged, preprocessing, contract)
    described = (
        _describe(name, sums, span)
        for name, sums, span in zip(
            statistic_names(preprocessing, contract), merged, statistic_ranges(preprocessing, contract), strict=True
        )
    )
    return Gathered(plan_digest=plan.digest(), sites=sites, features=tuple(described), prepared=prepared)


def _describe(name: str, sums: FeatureSums, span: tuple[float, float] | None) -> FeatureStatistics:
    quartiles = None
    if span is not None and sums.histogram.size:
        first, second, third = (sums.quantile(share, span) for share in _QUARTILES)
        quartiles = (first, second, third)
    return FeatureStatistics(
        name=name,
        count=sums.count,
        missing=sums.missing,
        mean=sums.mean,
        deviation=sums.variance**0.5,
        quartiles=quartiles,
    )


def sum_words(words: Iterable[Sums], plan: StudyPlan) -> Sums:
    """Add up the statistics of several sites; of none, it is nothing."""
    total = np.zeros(num_words(plan.preprocessing, plan.data), dtype=np.uint64)
    for one in words:
        total += one
    return total


def load_gathered(folder: Path, plan_digest: str) -> Gathered | None:
    """Return what an earlier start of this run gathered; ``None`` where there is nothing yet.

    Raises:
        StorageError: It cannot be read back, or is of another plan.
    """
    path = folder / GATHERED
    if not path.exists():
        return None
    try:
        with storage(path, "read"):
            found = Gathered.model_validate_json(path.read_bytes())
    except ValidationError:
        raise StorageError(f"{path} cannot be read back.", advice="Start a new run of this study.") from None
    if found.plan_digest != plan_digest:
        raise StorageError(f"{path} is of another plan.", advice="Do not move files between runs; start a new one.")
    return found


def gather_once(panel: Panel, masked: MaskedRounds | None, folder: RunFolder) -> Gathered:
    """Have every site measure its training split, once: what was gathered holds for the whole run, resumed or not.

    Args:
        panel: The sites.
        masked: What sums under masks, where the plan asks for them.
        folder: Of the run.

    Raises:
        StudyFailed: Too few sites sent statistics, or they add up to nothing possible.
        StorageError: The disk is full or fails.
    """
    plan = panel.plan
    if (kept := load_gathered(folder.path, panel.digest)) is not None:
        return kept
    failed: Mapping[str, str]
    if masked is not None:
        job = Job(
            number=0,
            parameters=np.zeros(0, np.float32),
            size=0,
            counts=num_words(plan.preprocessing, plan.data),
            task=lambda attempt, _following: StatisticsTask(plan_digest=panel.digest, attempt=attempt),
        )
        total = masked.sum(job)
        added, sites, failed = total.sums, total.survivors, total.missing
    else:
        words, failed = _ask_for_words(panel)
        sites = tuple(sorted(words))
        added = sum_words(words.values(), plan)
    panel.need(len(sites), failed, "The statistics could not be gathered")
    gathered = gather(added, plan, sites)
    folder.write(GATHERED, gathered.model_dump_json(indent=2))
    return gathered


def _ask_for_words(panel: Panel) -> tuple[dict[str, Sums], dict[str, str]]:
    """Return each site's statistics, and why others sent none."""
    words: dict[str, Sums] = {}
    failed: dict[str, str] = {}
    for site, answer in panel.ask(Message(header=StatisticsTask(plan_digest=panel.digest))):
        message = answer.message
        if message is None or not isinstance(message.header, Statistics) or message.sums is None:
            failed[site] = problem_of(answer)
            continue
        try:
            found = read(message.sums, panel.plan.preprocessing, panel.plan.data)
        except MessageError as error:
            failed[site] = error.message
            continue
        if are_declared(found, panel.plan.preprocessing, panel.plan.data, panel.opened[site].train):
            words[site] = message.sums
        else:
            failed[site] = "It sent statistics of other examples than those that it declared for training."
    return words, failed
