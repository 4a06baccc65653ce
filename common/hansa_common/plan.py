"""StudyPlan: the versioned definition of one study, read from TOML and refused where it makes no sense.

The plan is what a site approves, by its digest. ``[simulation]`` (where data comes from when all sites are on one
machine) is outside the digest; any other change makes another plan.

Evolution: ``format`` counts up when a meaning changes; keys are added with a default that keeps the old behaviour.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import AfterValidator, Field, model_validator

from hansa_common.canonical import digest
from hansa_common.combinations import decide
from hansa_common.contract import DataContract, Text
from hansa_common.errors import PlanError
from hansa_common.explain_plan import ExplainPlan, check_explain
from hansa_common.model_plan import ModelPlan
from hansa_common.models.fitting import check_model, model_options
from hansa_common.plan_options import Options, collect_options, parse_options
from hansa_common.privacy_plan import FEWEST_MASKED, MOST_MASKED, PrivacyPlan, require_data_independent
from hansa_common.settings import Strict, parse, read_toml
from hansa_common.strategies import FLTrustOptions, traits_of
from hansa_common.transport_plan import TransportPlan

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


def _matching(pattern: str, words: str) -> AfterValidator:
    """Return a check of text against a pattern that explains itself in words."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"found {text[:100]!r}; allowed is {words}.")
        return text

    return AfterValidator(check)


SiteName = Annotated[
    str, _matching(r"[^\x00-\x1f\x7f/\\]{1,64}", "1 to 64 characters, without slashes and control characters")
]
StudyName = Annotated[
    str,
    _matching("[a-z0-9][a-z0-9-]{0,62}", "1 to 63 lower-case letters, digits and hyphens, the first no hyphen"),
]


class AugmentationPlan(Strict):
    """``[training.augmentation]``: random changes to training images, drawn anew for each batch."""

    flip: bool = False
    """Mirror left and right with probability 1/2."""
    crop: Annotated[int, Field(ge=0, le=64)] = 0
    """Pad by this many pixels on each side and cut out the original size at a random place."""
    noise: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Standard deviation of Gaussian noise added to each feature."""
    mixup: Annotated[float, Field(ge=0.0, le=10.0)] = 0.0
    """Alpha of mixup (Zhang et al., ICLR 2018); 0 is off."""


class TrainingPlan(Strict):
    """``[training]``: what a site does with the model in one round."""

    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: Positive = 1e-3
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 32
    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls from its first step to the last step of the last round."""
    warmup_rounds: Annotated[int, Field(ge=0)] = 0
    """Rounds in which the learning rate rises linearly from 0."""
    gradient_clip: Positive | None = None
    """Upper bound of the L2 norm of a step's gradient."""
    class_weights: Literal["none", "balanced"] | tuple[Positive, ...] = "none"
    """``balanced``: N / (K * count) of the site's own training split."""
    precision: Literal["float32", "bfloat16"] = "float32"
    augmentation: AugmentationPlan = AugmentationPlan()

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            found = "neither" if self.epochs is None else "both"
            raise ValueError(f"found {found} of 'epochs' and 'steps'; allowed is exactly one of them.")
        if self.optimizer == "adam" and self.momentum:
            raise ValueError(f"momentum: found {self.momentum:g}; allowed is 0 with optimizer = 'adam'.")
        return self

    def steps_of_round(self, examples: int) -> int:
        """Return how many optimiser steps a site with so many training examples takes in a round."""
        return self.steps or (self.epochs or 1) * math.ceil(examples / self.batch_size)


class AggregationPlan(Strict):
    """``[aggregation]``: a strategy by name, and its options beside it."""

    strategy: Text = "fedavg"
    options: Options = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, values: Any) -> Any:
        return collect_options(values, "strategy")


class RoundsPlan(Strict):
    """``[rounds]``: how many, who takes part, and how long the server waits."""

    count: Annotated[int, Field(ge=1, le=100_000)]
    sites_per_round: Annotated[int, Field(ge=1)] | None = None
    """Size of a round's cohort, drawn anew each round; all sites where it is left out."""
    quorum: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the cohort that must deliver a valid update for a round to count."""
    deadline_seconds: Annotated[float, Field(gt=0.0, le=30 * 86_400.0)] = 3_600.0
    """A round closes at the latest after this time."""


class CostPlan(Strict):
    """``[evaluation.cost]``: of a wrong decision about two classes, the second of which is the positive one."""

    false_negative: Positive
    """Of one who is positive and taken for negative."""
    false_positive: Positive


Groups = Annotated[dict[Text, Annotated[tuple[Text, ...], Field(min_length=1, max_length=100)]], Field(max_length=20)]


class EvaluationPlan(Strict):
    """``[evaluation]``: how each site splits its own data; the rest is for training."""

    validation: Fraction = 0.1
    test: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    explain: ExplainPlan | None = None

    cost: CostPlan | None = None
    """What the two kinds of errors cost; the threshold that costs least on all validation examples is reported."""
    groups: Groups = Field(default_factory=dict)
    """Columns of the site's data, and the values by which people are compared; other values are in no group."""
    minimum_group: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """A group of fewer test examples is left out: at a site whose counts travel alone, and of the sum over sites."""

    @property
    def decision_rows(self) -> int:
        """Everybody, and each group; 0 where no decisions are counted."""
        groups = sum(len(values) for values in self.groups.values())
        return 1 + groups if groups or self.cost is not None else 0

    @model_validator(mode="after")
    def _leaves_training_data(self) -> Self:
        found, most = self.validation + self.test, 0.9
        if found > most:
            raise ValueError(f"found validation + test = {found:g}; allowed is at most {most:g}.")
        return self


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


_TWO = 2  # classes: positive and negative
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


class FederationPlan(Strict):
    """``[federation]``: the members that are asked to take part; those that do get the model."""

    sites: Annotated[tuple[SiteName, ...], Field(min_length=1, max_length=10_000)]
    """Names in the roster; a simulation does not look at them."""

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Self:
        if len(set(self.sites)) != len(self.sites):
            raise ValueError("sites: a site is named twice.")
        return self


class StudyPlan(Strict):
    """One study, as every site approves it."""

    format: Literal[1] = 1
    name: StudyName
    """Lower-case letters, digits and hyphens; the run's folder is named after it."""
    purpose: Annotated[str, Field(min_length=1, max_length=2_000)]
    """Why the study is done, in words that a data steward signs."""
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    """Of initial weights, splits and training; never of noise or masks."""
    model: ModelPlan
    data: DataContract
    training: TrainingPlan
    aggregation: AggregationPlan = AggregationPlan()
    rounds: RoundsPlan
    evaluation: EvaluationPlan = EvaluationPlan()
    privacy: PrivacyPlan = PrivacyPlan()
    transport: TransportPlan = TransportPlan()
    federation: FederationPlan | None = None
    """All members at the time of the proposal, where it is left out."""
    simulation: SimulationPlan | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_model(self.model, self.data, self.training, self.privacy.differential)
        self._check_aggregation()
        self._check_target()
        augmentation = self.training.augmentation
        if self.data.kind != "image" and (augmentation.flip or augmentation.crop):
            raise ValueError(f"training.augmentation: flip and crop are for images; data.kind is '{self.data.kind}'.")
        if self.training.warmup_rounds >= self.rounds.count > 1:
            raise ValueError(
                f"training.warmup_rounds: found {self.training.warmup_rounds}; allowed is fewer than rounds.count, "
                f"which is {self.rounds.count}."
            )
        if self.simulation is not None:
            self._check_simulation(self.simulation)
        self._check_privacy()
        check_explain(self.evaluation.explain, self.data, self.privacy, validation=self.evaluation.validation)
        return self

    def _check_target(self) -> None:
        weights, target = self.training.class_weights, self.data.target
        if isinstance(weights, tuple) and len(weights) != len(self.data.classes):
            raise ValueError(
                f"training.class_weights: {len(weights)} weights for {len(self.data.classes)} classes; allowed is one "
                "for each."
            )
        noised = self.privacy.differential
        if self.evaluation.decision_rows:
            for problem in (
                "" if len(self.data.classes) == _TWO else "two classes are needed",
                "differential privacy lets no such counts out" if noised is not None else "",
            ):
                if problem:
                    raise ValueError(f"evaluation: cost and groups are about decisions, and {problem}.")
        if target is None:
            return
        for key, is_set in (
            ("training.class_weights", weights != "none"),
            ("training.augmentation.mixup", bool(self.training.augmentation.mixup)),
            ("privacy.differential.kind = 'example'", noised is not None and noised.kind == "example"),
        ):
            if is_set:
                raise ValueError(f"{key} is for classes; data.target.kind is '{target.kind}'.")

    def _check_privacy(self) -> None:
        masked, noised = self.privacy.secure_aggregation, self.privacy.differential
        if masked is None and noised is None:
            return
        decision = decide(
            strategy=self.aggregation.strategy,
            ring_bits=masked.ring_bits if masked else None,
            kind=noised.kind if noised else None,
            codec=self.transport.codec,
        )
        if not decision.allowed:
            raise ValueError(f"privacy: {decision.text}")
        if masked is not None:
            self.transport.check_masked()
        if masked is not None or (noised is not None and noised.kind != "example"):
            self._check_whole_cohort()
        if noised is not None and noised.kind == "example":
            require_data_independent(self.training, standardise=getattr(self.data, "standardise", "none"))

    def _check_whole_cohort(self) -> None:
        if self.rounds.sites_per_round is not None:
            raise ValueError(
                "rounds.sites_per_round: the protection is for the sum over the plan's list of sites, and a cohort "
                "that the server draws could be filled by it; leave this key out."
            )
        sites = self.federation.sites if self.federation else ()
        count = len(sites) or (self.simulation.sites or len(self.simulation.names) if self.simulation else 0)
        if count and not FEWEST_MASKED <= count <= MOST_MASKED and self.privacy.secure_aggregation is not None:
            raise ValueError(
                f"privacy.secure_aggregation: found {count} sites; allowed is {FEWEST_MASKED} to {MOST_MASKED}, for "
                "of two sites each knows the other's update from the sum."
            )

    def _check_aggregation(self) -> None:
        """Hold the strategy against what is known without its code; the coordinator checks the rest."""
        traits = traits_of(self.aggregation.strategy, optimizer=self.training.optimizer)
        if traits.options is None:
            return
        try:
            options = parse_options(traits.options, self.aggregation.options, section="aggregation")
        except PlanError as error:
            raise ValueError(error.message) from None
        if isinstance(options, FLTrustOptions):
            sites = self.federation.sites if self.federation else ()
            named = self.simulation.names if self.simulation else ()
            options.check_root(sites, named, sites_per_round=self.rounds.sites_per_round)

    def _check_simulation(self, simulation: SimulationPlan) -> None:
        sites, per_round = simulation.sites or len(simulation.names) or None, self.rounds.sites_per_round
        if sites is not None and per_round is not None and per_round > sites:
            raise ValueError(
                f"rounds.sites_per_round: found {per_round}; allowed is at most {sites}, the sites there are."
            )
        noised = self.privacy.differential
        if simulation.fraction < 1.0 and noised is not None and noised.kind == "example":
            raise ValueError(
                f"simulation.fraction: found {simulation.fraction:g}; allowed is 1 with privacy.differential.kind = "
                "'example', for who is left out would depend on the others."
            )
        partition = Partition.parse(simulation.partition)
        if self.data.target is None and partition.labels_per_site > len(self.data.classes):
            raise ValueError(
                f"simulation.partition: '{simulation.partition}' asks for more labels than the "
                f"{len(self.data.classes)} classes."
            )

    def model_options(self) -> Strict:
        """Return the model's options, checked against its own type.

        Raises:
            PlanError: An option is unknown or wrong; the path starts with ``model``.
        """
        return model_options(self.model)

    def approved(self) -> "StudyPlan":
        """Return the part that sites approve: everything but ``[simulation]``."""
        return self.model_copy(update={"simulation": None})

    def simulation_digest(self) -> str:
        """Return the SHA-256 of who has which data in a simulation, in hexadecimal digits; else an empty string."""
        if self.simulation is None:
            return ""
        values = self.simulation.model_dump(mode="json", exclude={"device", "gpus_per_site"})
        if self.simulation.fraction == 1.0:  # younger than the other keys: runs without it keep their digest
            del values["fraction"]
        del values["data"]["weights"]  # has nothing to do with who has which data
        return digest(values)

    def digest(self) -> str:
        """Return the SHA-256 of the canonical bytes of the approved part, in hexadecimal digits."""
        values = self.approved().model_dump(mode="json")
        if self.privacy == PrivacyPlan():  # younger than the other sections: plans without it keep their digest
            del values["privacy"]
        if self.transport == TransportPlan():
            del values["transport"]
        if self.data.target is None:
            del values["data"]["target"]
        if not self.evaluation.decision_rows:
            for key in ("cost", "groups", "minimum_group"):
                del values["evaluation"][key]
        for key in ("backbone", "lora"):  # younger too
            if values["model"][key] is None:
                del values["model"][key]
        if self.evaluation.explain is None:
            del values["evaluation"]["explain"]
        return digest(values)


def plan_from_json(text: str) -> StudyPlan:
    """Build a plan from the JSON that ``model_dump_json`` gives.

    Raises:
        PlanError: It is no JSON or no valid plan.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise PlanError("The plan is not valid JSON.") from None
    if not isinstance(values, dict):
        raise PlanError("The plan is no JSON object.")
    return parse_plan(values)


def dump_plan(plan: StudyPlan) -> str:
    """Return the plan as TOML that ``read_plan`` reads back to an equal plan."""
    values = plan.model_dump(mode="json", exclude_none=True)
    sections = [values["model"], values["aggregation"]]
    sections += [values["simulation"]["data"]] if plan.simulation else []
    for section in sections:
        section.update(section.pop("options"))
    return tomli_w.dumps(values)


def parse_plan(values: Mapping[str, Any], *, origin: str = "") -> StudyPlan:
    """Build a plan from parsed TOML or JSON.

    Raises:
        PlanError: Something is wrong; one line a key.
    """
    return parse(StudyPlan, values, origin=origin, error=PlanError)


def read_plan(path: Path) -> StudyPlan:
    """Read a study file.

    Raises:
        SettingsError: It cannot be read or is not TOML.
        PlanError: It is no valid plan.
    """
    return parse_plan(read_toml(path), origin=str(path))
