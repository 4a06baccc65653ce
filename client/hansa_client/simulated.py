"""Simulated sites: one data set on one machine, divided as the plan's ``[simulation]`` says.

The data set is read once a process and never copied: a site is a list of positions in it.
"""

import functools
import json
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from hansa_client.data import ADAPTERS, Dataset, Source
from hansa_client.data.contract_check import check
from hansa_client.data.partition import partition
from hansa_client.data.source import Indices
from hansa_client.data.split import Splits, draw, draw_units, split_site
from hansa_client.data.text_columns import needed_columns, text_column
from hansa_common.contract import DataContract
from hansa_common.errors import PartitionError, PlanError
from hansa_common.models.registry import Contract
from hansa_common.plan import StudyPlan
from hansa_common.plan_names import SiteName
from hansa_common.preprocessing_plan import unit_column
from hansa_common.seeds import derive_seed
from hansa_common.settings import parse
from hansa_common.simulation_plan import Partition, SimulationPlan, source_from_json

_SMALLEST = 3  # examples of a site: one to train, one to validate, one to test
_CACHED = 2  # data sets in memory; the next study's beside the last one's

_lock = threading.RLock()  # threads of one process wait for one reading
_contracts: TypeAdapter[Contract] = TypeAdapter(DataContract)
_site_names: TypeAdapter[str] = TypeAdapter(SiteName)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSites:
    """A data set and who has which part of it.

    Attributes:
        names: Of the sites, distinct.
        indices: Each site's positions in ``dataset``, ascending; no position twice.
        holdout: Positions that no site has, ascending.
        dataset: All examples.
    """

    names: tuple[str, ...]
    indices: tuple[Indices, ...] = field(repr=False)
    holdout: Indices = field(repr=False)
    dataset: Dataset


def load(plan: StudyPlan) -> Dataset:
    """Return the whole data set of a simulation, checked against the plan's contract.

    Raises:
        PlanError: The plan has no ``[simulation]``.
        UsageError: There is no such adapter.
        DataError: The data cannot be read or does not fulfil the contract.
    """
    with _lock:
        return _load(_contracts.dump_json(plan.data), _simulation(plan).data.model_dump_json(), needed_columns(plan))


@functools.lru_cache(maxsize=_CACHED)
def _load(contract_json: bytes, source_json: str, columns: tuple[str, ...]) -> Dataset:
    """Read by texts that can be compared: what does not change the data does not read it again."""
    contract = _contracts.validate_json(contract_json)
    source = source_from_json(source_json)
    path = Path(source.path) if source.path is not None else None
    wanted = Source(path=path, options=source.options, columns=columns)
    return check(ADAPTERS.find(source.adapter)(wanted, contract), contract)


def divide(plan: StudyPlan) -> SimulatedSites:
    """Return the simulated sites: the holdout is taken first, then the partition.

    The holdout is stratified by label; where examples belong together it is of whole units.

    Raises:
        PlanError: The plan has no ``[simulation]``.
        PartitionError: The data cannot be divided so, or a column's value is no valid name of a site.
        DataError: The data cannot be read or does not fulfil the contract.
    """
    with _lock:
        shape = _simulation(plan).model_dump_json(include={"data", "sites", "names", "partition", "holdout"})
        unit = unit_column(plan.data, plan.evaluation.group)
        return _divide(_contracts.dump_json(plan.data), shape, needed_columns(plan), unit, plan.seed)


@functools.lru_cache(maxsize=_CACHED)
def _divide(
    contract_json: bytes, simulation_json: str, columns: tuple[str, ...], unit: str | None, seed: int
) -> SimulatedSites:
    simulation = parse(SimulationPlan, json.loads(simulation_json))
    contract = _contracts.validate_json(contract_json)
    dataset = _load(contract_json, simulation.data.model_dump_json(), columns)
    size = max(1, round(len(dataset) * simulation.holdout)) if simulation.holdout else 0
    rng = np.random.Generator(np.random.Philox(derive_seed(seed, "holdout")))
    if unit is None or not size:
        holdout, rest = draw(dataset.labels, (size,), rng)
    else:
        values = text_column(dataset, unit, key="simulation.holdout", says="which examples belong together")
        holdout, rest = draw_units(values, size, rng)
    parts = partition(
        dataset,
        Partition.parse(simulation.partition),
        simulation.sites or len(simulation.names) or None,
        derive_seed(seed, "partition"),
        minimum=max(contract.minimum_examples, _SMALLEST),
        among=rest,
    )
    names = tuple(_valid_name(name) for name, _ in parts if name is not None) or _default_names(simulation)
    return SimulatedSites(names=names, indices=tuple(part for _, part in parts), holdout=holdout, dataset=dataset)


def count_sites(plan: StudyPlan) -> tuple[str, ...]:
    """Return the names of the simulated sites; data is read for a column partition only.

    Raises:
        PlanError: The plan has no ``[simulation]``.
        UsageError: There is no such adapter.
        PartitionError, DataError: As ``divide``, for a column partition.
    """
    simulation = _simulation(plan)
    ADAPTERS.find(simulation.data.adapter)
    if Partition.parse(simulation.partition).kind == "column":
        return divide(plan).names
    return _default_names(simulation)


def training_sizes(plan: StudyPlan) -> dict[str, int]:
    """Return how many training examples each simulated site has.

    Raises:
        PlanError, PartitionError, DataError: As ``divide``.
    """
    return {name: len(site_splits(plan, index).train) for index, name in enumerate(divide(plan).names)}


def site_splits(plan: StudyPlan, index: int) -> Splits:
    """Return one site's training, validation and test split, as positions in the whole data set.

    Of the training split as much as ``simulation.fraction`` says, stratified; the other two are always whole.

    Args:
        plan: The study.
        index: Position of the site among the names.

    Raises:
        PlanError, PartitionError, DataError: As ``divide``.
    """
    sites = divide(plan)
    splits = split_site(plan, sites.dataset, sites.indices[index], derive_seed(plan.seed, index, "split"))
    fraction = _simulation(plan).fraction
    if fraction == 1.0:
        return splits
    rng = np.random.Generator(np.random.Philox(derive_seed(plan.seed, index, "fraction")))
    kept, _ = draw(sites.dataset.labels[splits.train], (max(1, round(len(splits.train) * fraction)),), rng)
    return replace(splits, train=splits.train[kept])


def _simulation(plan: StudyPlan) -> SimulationPlan:
    if plan.simulation is None:
        raise PlanError("simulation: the plan has no such section.", path="simulation", advice="Add [simulation.data].")
    return plan.simulation


def _default_names(simulation: SimulationPlan) -> tuple[str, ...]:
    """Return ``site-01`` to ``site-10``: of equal width, because results are folded in the order of names."""
    if simulation.names:
        return simulation.names
    count = simulation.sites or 0
    return tuple(f"site-{number:0{len(str(count))}}" for number in range(1, count + 1))


def _valid_name(name: str) -> str:
    try:
        return _site_names.validate_python(name)
    except ValidationError:
        raise PartitionError(
            f"The column's value {name!r} is no valid name of a site: 1 to 64 characters, no slash.",
            advice="Split by another column, or write its values differently.",
        ) from None
