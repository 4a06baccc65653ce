"""Which plans are run beside each other, and whether they may be: on the same split, or a difference says nothing."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from hansa_common.canonical import digest
from hansa_common.errors import UsageError
from hansa_common.plan import StudyPlan, parse_plan, read_plan

_WHOLE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One plan of several.

    Attributes:
        name: Tells it from the others in tables and pictures.
        plan: With a seed that the runs replace.
        x: What is varied, where it is one number: the place on a curve.
    """

    name: str
    plan: StudyPlan
    x: float | None = None


def read_variants(paths: Sequence[Path]) -> tuple[Variant, ...]:
    """Read study files; each is called by its file's name, or by its path where two are alike.

    Raises:
        SettingsError, PlanError: A file cannot be read or is no valid plan.
        UsageError: A file is named twice, or they cannot be compared.
    """
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise UsageError("A study file is named twice.", advice="Name each plan once; --seeds repeats all of them.")
    variants = tuple(Variant(name=name, plan=read_plan(path)) for name, path in zip(names, paths, strict=True))
    require_one_split(variants)
    return variants


def sweep(plan: StudyPlan, *, learning_rates: Sequence[float], epochs: Sequence[int]) -> tuple[Variant, ...]:
    """Return the plan with each learning rate and each number of local epochs.

    Args:
        plan: The study; what is not swept stays.
        learning_rates: The plan's where empty.
        epochs: Instead of the plan's epochs or steps; those where empty.

    Raises:
        UsageError: Nothing is swept, or a value is there twice.
        PlanError: A changed plan is not valid.
    """
    if not learning_rates and not epochs:
        raise UsageError("Nothing to sweep.", advice="Name --learning-rate or --epochs, as in --epochs 1,2,5.")
    _require_distinct("--learning-rate", learning_rates)
    _require_distinct("--epochs", epochs)
    found = []
    rates: Sequence[float | None] = learning_rates or [None]
    numbers: Sequence[int | None] = epochs or [None]
    for rate, passes in product(rates, numbers):
        training: dict[str, Any] = {}
        if rate is not None:
            training["learning_rate"] = rate
        if passes is not None:
            training |= {"epochs": passes, "steps": None}
        parts = [f"rate {rate:g}"] if rate is not None else []
        parts += [f"{passes} epoch{'s' if passes > 1 else ''}"] if passes is not None else []
        found.append(Variant(name=", ".join(parts), plan=changed(plan, training=training)))
    return tuple(found)


def fractions(plan: StudyPlan, shares: Sequence[float]) -> tuple[Variant, ...]:
    """Return the plan with each fraction of the sites' training data, ascending.

    Raises:
        UsageError: The plan has no simulation, or a fraction is there twice.
        PlanError: A fraction is out of range.
    """
    if plan.simulation is None:
        raise UsageError("The plan has no [simulation]: a learning curve takes data away from simulated sites.")
    _require_distinct("--fractions", shares)
    return tuple(
        Variant(name=f"{100 * share:g}% of the data", plan=changed(plan, simulation={"fraction": share}), x=100 * share)
        for share in sorted(shares)
    )


def with_seed(plan: StudyPlan, seed: int) -> StudyPlan:
    """Return the plan with another seed: of partition, splits, initial weights and training.

    Raises:
        PlanError: The seed is out of range.
    """
    return parse_plan(plan.model_dump(exclude_none=True) | {"seed": seed}, origin="command line")


def changed(plan: StudyPlan, **sections: Mapping[str, Any]) -> StudyPlan:
    """Return the plan with keys of its sections changed (``None`` takes a key away), checked as a whole again.

    Raises:
        PlanError: The changed plan is not valid.
    """
    values = plan.model_dump(exclude_none=True)
    for section, keys in sections.items():
        merged = values.get(section, {}) | dict(keys)
        values[section] = {key: value for key, value in merged.items() if value is not None}
    return parse_plan(values, origin="command line")


def require_one_split(variants: Sequence[Variant]) -> None:
    """Return if all plans give each site the same training, validation and test examples for one seed.

    Raises:
        UsageError: They do not; the message says which two plans differ in what.
    """
    first = variants[0]
    if first.plan.simulation is None:
        raise UsageError(f"'{first.name}' has no [simulation]: it does not say which data the sites have.")
    for other in variants[1:]:
        for what, own, its in zip(_PARTS, _split_of(first.plan), _split_of(other.plan), strict=True):
            if own != its:
                raise UsageError(
                    f"'{first.name}' and '{other.name}' cannot be compared: they differ in {what}.",
                    advice="Plans are compared on one split: the same data, [data], [evaluation] and [simulation].",
                )


_PARTS = (
    "[simulation], which says who has which data",
    "[data], the data contract",
    "[evaluation], which says what is tested on",
    "whom privacy.differential protects: persons are split as a whole",
)


def _split_of(plan: StudyPlan) -> tuple[str, str, str, str]:
    """Return digests of all that decides which examples a site trains, validates and tests on, beside the seed."""
    whole = plan.model_copy(
        update={"simulation": plan.simulation and plan.simulation.model_copy(update={"fraction": _WHOLE})}
    )
    noised = plan.privacy.differential
    by_person = noised.unit or "row" if noised is not None and noised.kind == "example" else ""
    return (
        whole.simulation_digest(),
        digest(plan.data.model_dump(mode="json")),
        digest(plan.evaluation.model_dump(mode="json", exclude={"ensemble", "explain"})),
        by_person,
    )


def read_numbers(option: str, text: str | None) -> list[float]:
    """Read ``1e-3,1e-2``.

    Raises:
        UsageError: It is no list of numbers.
    """
    return [float(part) for part in _parts_of(option, text, r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", "1e-3,1e-2")]


def read_whole_numbers(option: str, text: str | None) -> list[int]:
    """Read ``42,43,44``.

    Raises:
        UsageError: It is no list of whole numbers.
    """
    return [int(part) for part in _parts_of(option, text, r"\d{1,15}", "42,43,44")]


def _parts_of(option: str, text: str | None, pattern: str, example: str) -> list[str]:
    if text is None:
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(pattern, part) for part in parts):
        raise UsageError(f"{option}: found '{text}'.", advice=f"Allowed are numbers with commas between, as {example}.")
    return parts


def _require_distinct(option: str, values: Iterable[float]) -> None:
    found = list(values)
    if len(set(found)) < len(found):
        raise UsageError(f"{option}: a value is there twice.")
