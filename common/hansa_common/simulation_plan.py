"""``[simulation]`` of a plan: where the data of simulated sites lie, and who has which part of them."""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from hansa_common.contract import Text
from hansa_common.errors import PlanError
from hansa_common.plan_names import SiteName
from hansa_common.plan_options import Options, collect_options
from hansa_common.settings import Strict, parse


class SourcePlan(Strict):
    """``[simulation.data]``: an adapter from ``hansa_client.data``, where its data lies, and its options."""

    adapter: Text
    path: Text | None = None
    weights: Text | None = None
    """Folder with the weight files that ``[model.backbone]`` names."""
    options: Options = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, values: Any) -> Any:
        return collect_options(values, "adapter", "path", "weights")


_MAX_ALPHA = 1e6  # sites are alike to the last example long before


@dataclass(frozen=True, slots=True)
class Partition:
    """How a data set is split into simulated sites: ``iid``, ``dirichlet:0.5``, ``shards:2``, ``column:hospital``."""

    kind: Literal["iid", "dirichlet", "shards", "quantity", "column"]
    alpha: float = 0.0
    labels_per_site: int = 0
    column: str = ""

    @classmethod
    def parse(cls, text: str) -> "Partition":
        """Read the notation of a plan or of ``--partition``.

        Raises:
            ValueError: It is none; the message lists what is allowed.
        """
        kind, _, argument = text.partition(":")
        try:
            if kind == "iid" and not argument:
                return cls("iid")
            if kind in ("dirichlet", "quantity") and 0.0 < (alpha := float(argument)) < _MAX_ALPHA:
                return cls("dirichlet" if kind == "dirichlet" else "quantity", alpha=alpha)
            if kind == "shards" and (labels := int(argument)) > 0:
                return cls("shards", labels_per_site=labels)
            if kind == "column" and argument:
                return cls("column", column=argument)
        except ValueError:
            pass
        raise ValueError(
            f"found '{text}'; allowed is iid, dirichlet:ALPHA, shards:K, quantity:ALPHA (ALPHA > 0, K >= 1 labels a "
            "site) or column:NAME."
        )


class SimulationPlan(Strict):
    """``[simulation]``: one data set split into sites on one machine; outside the plan's digest."""

    data: SourcePlan
    sites: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """How many; may be left out with ``column:NAME``, which has one site for each value."""
    names: tuple[SiteName, ...] = ()
    """Names of the sites; ``site-1``, ``site-2`` ... where left out."""
    partition: Text = "iid"
    holdout: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Share of the data that no site gets: the coordinator's own test set."""
    fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of its training split that each site uses; validation and test stay whole, so that results compare."""
    leave_out: SiteName | None = None
    """A site that takes part in no round: the last model is tested on all its data, as on a stranger's."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the sites train; ``auto`` takes a GPU when there is one."""
    gpus_per_site: Annotated[float, Field(ge=0.0, le=64.0)] = 0.0
    """Share of a GPU that a running site takes on engine ``ray``; engine ``local`` shares the GPUs by itself."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        try:
            partition = Partition.parse(self.partition)
        except ValueError as error:
            raise ValueError(f"partition: {error}") from None
        if self.sites is None and partition.kind != "column" and not self.names:
            raise ValueError(f"sites: this key is required with partition = '{self.partition}' and missing.")
        if self.names:
            if len(set(self.names)) != len(self.names):
                twice = sorted({name for name in self.names if self.names.count(name) > 1})
                raise ValueError(f"names: named twice: {', '.join(twice)}; each site needs a name of its own.")
            if partition.kind == "column":
                raise ValueError("names: a column partition names the sites by the column's values; leave names out.")
            if self.sites is not None and self.sites != len(self.names):
                raise ValueError(
                    f"names: found {len(self.names)} names; allowed is one for each of the {self.sites} sites."
                )
        return self


def source_from_json(text: str | bytes) -> SourcePlan:
    """Build a source from the JSON that ``model_dump_json`` gives; options may be lists, which JSON has no tuples for.

    Raises:
        PlanError: It is no JSON or no source.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise PlanError("The data source is not valid JSON.") from None
    source: SourcePlan = parse(SourcePlan, values, error=PlanError)
    return source
