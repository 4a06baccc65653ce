"""What one site has in one study: its examples, split as the plan says; simulated or real, the same from here on."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hansa_client.data import ADAPTERS, Dataset, Source
from hansa_client.data.contract_check import check
from hansa_client.data.source import Indices
from hansa_client.data.split import Splits, split_site
from hansa_client.data.text_columns import needed_columns
from hansa_client.simulated import SimulatedSites, divide, site_splits
from hansa_common.errors import TaskRefused
from hansa_common.plan import StudyPlan
from hansa_common.seeds import derive_seed
from hansa_common.simulation_plan import SourcePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteData:
    """One site's part of a study.

    Attributes:
        name: Of the site.
        index: Its place among the study's sites, for its seeds.
        dataset: Where the examples are; of a simulation, those of all sites.
        own: Positions of its examples.
        splits: Positions of each split.
        simulation: All simulated sites; ``None`` at a real one.
        weights: Folder with the weight files that plans name.
    """

    name: str
    index: int
    dataset: Dataset = field(repr=False)
    own: Indices = field(repr=False)
    splits: Splits = field(repr=False)
    simulation: SimulatedSites | None = field(default=None, repr=False)
    weights: Path | None = None


def simulated_site(plan: StudyPlan, index: int) -> SiteData:
    """Return one site of a simulation.

    Raises:
        TaskRefused: There is no such site.
        PlanError, PartitionError, DataError: As ``hansa_client.simulated.divide``.
    """
    sites = divide(plan)
    if not 0 <= index < len(sites.names):
        raise TaskRefused(f"There is no site {index}; the plan has {len(sites.names)}.")
    splits = site_splits(plan, index)
    is_whole = plan.simulation is None or plan.simulation.fraction == 1.0
    used = sites.indices[index] if is_whole else np.sort(np.concatenate([splits.train, splits.validation, splits.test]))
    return SiteData(
        name=sites.names[index],
        index=index,
        dataset=sites.dataset,
        own=used,
        splits=splits,
        simulation=sites,
        weights=_folder(plan.simulation.data) if plan.simulation is not None else None,
    )


def real_site(plan: StudyPlan, *, name: str, index: int, source: SourcePlan) -> SiteData:
    """Return a real site: all that its source holds is its own, and is split as a simulated site's part is.

    Args:
        plan: The study.
        name: Of the site.
        index: Its place in ``plan.federation.sites``.
        source: From the site's own settings.

    Raises:
        UsageError: There is no such adapter.
        DataError: The data cannot be read, does not fulfil the plan's contract or does not say whose a row is.
    """
    path = Path(source.path) if source.path is not None else None
    wanted = Source(path=path, options=source.options, columns=needed_columns(plan))
    dataset = check(ADAPTERS.find(source.adapter)(wanted, plan.data), plan.data)
    own = np.arange(len(dataset))
    splits = split_site(plan, dataset, own, derive_seed(plan.seed, index, "split"))
    return SiteData(name=name, index=index, dataset=dataset, own=own, splits=splits, weights=_folder(source))


def _folder(source: SourcePlan) -> Path | None:
    return Path(source.weights) if source.weights is not None else None
