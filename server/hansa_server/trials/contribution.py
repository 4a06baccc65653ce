"""What each site contributes: the Shapley value of its updates, or what is lost without it; and a receipt for it.

Shapley: A Value for n-Person Games. Contributions to the Theory of Games II, 1953. The players are the sites, the worth
of a coalition is the figure that its model reaches on the test examples of all sites; the values of all sites add up to
what the whole study reached above the untrained model. Exact means: each of the ``2^S`` coalitions is trained, nothing
is sampled. With another seed, and another split, a site contributes something else: the spread says how much else.

Shapes: ``S`` sites.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Final, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, ValidationError

from hansa_common.canonical import digest
from hansa_common.errors import IdentityError, StorageError, UsageError
from hansa_common.files import storage
from hansa_common.plan import StudyPlan
from hansa_common.plan_names import SiteName
from hansa_common.roster import Organisation
from hansa_common.settings import Strict
from hansa_common.signing import Signature, sign, verify
from hansa_server.trials.coalitions import Coalition, Coalitions
from hansa_server.trials.variants import with_seed
from hansa_server.trials.writing import Figure

Method = Literal["exact", "leave-one-out"]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
LABEL: Final = "contribution"
MOST_EXACT: Final = 10  # sites; 1,024 trainings for each seed
CHEAP: Final = 10_000  # parameters; a larger model is left one site out at a time, unless exactness is asked for
_TOLERANCE: Final = 1e-9  # of a sum in another order
_VALUES: Final = "values.jsonl"
_FEWEST: Final = 2  # seeds with a deviation

Tell = Callable[[int, Coalition, float, int, int], None]
"""Told of each coalition: seed, sites, value, its number and how many there are for this seed."""


class Measured(Strict):
    """What one coalition's model is worth with one seed."""

    seed: int
    sites: tuple[SiteName, ...]
    """Ascending; empty for the untrained model."""
    value: float


class SiteContribution(Strict):
    """What one site contributes, in the figure's own unit."""

    site: SiteName
    values: tuple[float, ...]
    """One for each seed."""
    mean: float
    deviation: float | None
    """Standard deviation over the seeds (n - 1); ``null`` with one."""


class Receipt(Strict):
    """Contributions, with all that they follow from; ``check_receipt`` computes them again."""

    format: Literal[1] = 1
    kind: Literal["contribution-receipt"] = "contribution-receipt"
    study: str
    plan_digest: Digest
    """Of the study file as given; ``seeds`` replace its seed."""
    simulation_digest: Digest
    figure: Figure
    """A loss or an error counts negatively, so that more is better."""
    method: Method
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    sites: Annotated[tuple[SiteContribution, ...], Field(min_length=1)]
    measured: tuple[Measured, ...]
    made_at: str
    """ISO 8601, UTC."""
    version: str
    """Of Hansa."""


class SignedReceipt(Strict):
    """A receipt and who answers for it; nobody where both are ``null``."""

    receipt: Receipt
    organisation: Organisation | None = None
    signature: Signature | None = None


def shapley(sites: Sequence[str], worth: Mapping[Coalition, float]) -> dict[str, float]:
    """Return each site's Shapley value: the mean of what it adds, over all orders in which the sites could join.

    Args:
        sites: All ``S``.
        worth: Of each of the ``2^S`` coalitions.
    """
    found = {}
    for site in sites:
        others = [other for other in sites if other != site]
        added = (
            (worth[coalition | {site}] - worth[coalition]) / (len(sites) * math.comb(len(others), len(coalition)))
            for coalition in _subsets(others)
        )
        found[site] = math.fsum(added)
    return found


def leave_one_out(sites: Sequence[str], worth: Mapping[Coalition, float]) -> dict[str, float]:
    """Return what is lost without each site; these do not add up to anything.

    Args:
        sites: All ``S``.
        worth: Of the whole and of the ``S`` coalitions that one is missing from.
    """
    whole = frozenset(sites)
    return {site: worth[whole] - worth[whole - {site}] for site in sites}


def needed(sites: Sequence[str], method: Method) -> list[Coalition]:
    """Return the coalitions that a method looks at, the smallest first."""
    if method == "exact":
        return list(_subsets(sites))
    whole = frozenset(sites)
    return [frozenset(), *(whole - {site} for site in sites), whole]


def _subsets(sites: Sequence[str]) -> Iterator[Coalition]:
    for size in range(len(sites) + 1):
        yield from map(frozenset, combinations(sites, size))


def choose_method(asked: Method | None, *, sites: int, parameters: int) -> Method:
    """Return the method that is asked for, else the exact one where the study is small.

    Raises:
        UsageError: It is asked for where it would take thousands of trainings.
    """
    if asked == "exact" and sites > MOST_EXACT:
        raise UsageError(
            f"{sites} sites have {2**sites:,} coalitions; exact values are for at most {MOST_EXACT} sites.",
            advice="Take --method leave-one-out.",
        )
    if asked is not None:
        return asked
    return "exact" if sites <= MOST_EXACT and parameters <= CHEAP else "leave-one-out"


def measure(
    plan: StudyPlan, seeds: Sequence[int], folder: Path, *, method: Method | None, figure: Figure, tell: Tell
) -> tuple[Method, tuple[Measured, ...]]:
    """Train what is needed, as far as ``folder`` does not have it yet.

    Args:
        plan: The study; ``require_individual_updates`` has passed.
        seeds: Distinct.
        folder: Keeps each value as it is known, so that a stopped command goes on.
        method: Chosen by ``choose_method`` where ``None``.
        figure: What a model is judged by.
        tell: Told of each coalition.

    Raises:
        UsageError: The plan cannot be simulated.
        StudyFailed: A coalition's training failed.
        StorageError: The disk fails.
    """
    found: list[Measured] = []
    for seed in seeds:
        seeded = with_seed(plan, seed)
        coalitions = Coalitions(seeded, figure)
        nothing = coalitions.worth(frozenset())
        method = choose_method(method, sites=len(coalitions.names), parameters=nothing.parameters)
        store = _Values(folder, digest([seeded.digest(), seeded.simulation_digest(), figure]))
        wanted = needed(coalitions.names, method)
        for number, coalition in enumerate(wanted, start=1):
            value = store.find(coalition)
            if value is None:
                value = coalitions.worth(coalition).value if coalition else nothing.value
                store.keep(coalition, value)
            found.append(Measured(seed=seed, sites=tuple(sorted(coalition)), value=value))
            tell(seed, coalition, value, number, len(wanted))
    assert method is not None
    return method, tuple(found)


class _Values:
    """The values of one seed on disk, a line each; a half-written last line is measured again."""

    def __init__(self, folder: Path, key: str) -> None:
        self._path, self._key = folder / _VALUES, key
        self._found: dict[Coalition, float] = {}
        if self._path.exists():
            with storage(self._path, "read"):
                lines = self._path.read_text(encoding="utf-8").splitlines()
            for line in lines:
                entry = _parse(line)
                if entry is not None and entry.key == key:
                    self._found[frozenset(entry.sites)] = entry.value

    def find(self, coalition: Coalition) -> float | None:
        """Return a value that is known."""
        return self._found.get(coalition)

    def keep(self, coalition: Coalition, value: float) -> None:
        """Write a value down."""
        line = _Line(key=self._key, sites=tuple(sorted(coalition)), value=value).model_dump_json()
        with storage(self._path, "write"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"\n{line}\n")  # the line before may be half of one


class _Line(Strict):
    key: Digest
    sites: tuple[SiteName, ...]
    value: float


def _parse(line: str) -> _Line | None:
    try:
        return _Line.model_validate_json(line) if line else None
    except ValidationError:
        return None


def contributions(method: Method, seeds: Sequence[int], measured: Iterable[Measured]) -> tuple[SiteContribution, ...]:
    """Return what each site contributes, by name.

    Raises:
        KeyError: A coalition is missing.
    """
    worth: dict[int, dict[Coalition, float]] = {seed: {} for seed in seeds}
    for entry in measured:
        worth[entry.seed][frozenset(entry.sites)] = entry.value
    names = sorted(frozenset[str]().union(*worth[seeds[0]]))
    rule = shapley if method == "exact" else leave_one_out
    by_seed = [rule(names, worth[seed]) for seed in seeds]
    found = []
    for name in names:
        values = tuple(each[name] for each in by_seed)
        deviation = stdev(values) if len(values) >= _FEWEST else None
        found.append(SiteContribution(site=name, values=values, mean=fmean(values), deviation=deviation))
    return tuple(found)


def sign_receipt(receipt: Receipt, organisation: Organisation, key: Ed25519PrivateKey) -> SignedReceipt:
    """Sign a receipt with an organisation's key."""
    signature = sign(key, LABEL, _statement(receipt, organisation))
    return SignedReceipt(receipt=receipt, organisation=organisation, signature=signature)


def check_receipt(signed: SignedReceipt) -> None:
    """Return if the contributions follow from what was measured, and the signature, if there is one, holds.

    Whether the trainings were done as the receipt says can only be seen by running the study file again.

    Raises:
        IdentityError: The signature does not hold, or only half of one is there.
        StorageError: The contributions are others than those that follow from the values.
    """
    receipt = signed.receipt
    if (signed.organisation is None) != (signed.signature is None):
        raise IdentityError("The receipt has a signature or a signer, and not both.", advice="Ask for it again.")
    if signed.organisation is not None and signed.signature is not None:
        verify(signed.organisation.key, LABEL, _statement(receipt, signed.organisation), signed.signature)
    try:
        again = contributions(receipt.method, receipt.seeds, receipt.measured)
    except (KeyError, ValueError):
        again = ()
    same = [site.site for site in again] == [site.site for site in receipt.sites] and all(
        len(own.values) == len(other.values)
        and all(
            math.isclose(one, two, abs_tol=_TOLERANCE)
            for one, two in zip((*own.values, own.mean), (*other.values, other.mean), strict=True)
        )
        for own, other in zip(again, receipt.sites, strict=True)
    )
    if not same:
        raise StorageError(
            "The contributions do not follow from the values in the receipt.",
            advice="It was changed or is not whole; ask its sender for it again.",
        )


def _statement(receipt: Receipt, organisation: Organisation) -> dict[str, object]:
    return {"receipt": receipt.model_dump(mode="json"), "organisation": organisation.model_dump(mode="json")}
