"""StudyPlan: the versioned definition of one study, read from TOML and refused where it makes no sense.

The plan is what a site approves, by its digest. ``[simulation]`` (where data comes from when all sites are on one
machine) is outside the digest; any other change makes another plan.

Evolution: ``format`` counts up when a meaning changes; keys are added with a default that keeps the old behaviour.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import Field, model_validator

from hansa_common.canonical import digest
from hansa_common.combinations import decide, refused_personalisation
from hansa_common.contract import DataContract, Text
from hansa_common.ensemble_plan import MOST_MEMBERS, check_ensemble
from hansa_common.errors import PlanError
from hansa_common.exact_fit import require_exact_fit
from hansa_common.explain_plan import ExplainPlan, check_explain
from hansa_common.model_plan import ModelPlan
from hansa_common.models.fitting import check_model, model_options
from hansa_common.personalisation import PersonalisationPlan
from hansa_common.plan_digest import digested
from hansa_common.plan_names import Fraction, Positive, SiteName, StudyName
from hansa_common.plan_options import Options, collect_options, parse_options
from hansa_common.preprocessing_plan import PreprocessingPlan, check_preprocessing, learned_contract
from hansa_common.privacy_plan import FEWEST_MASKED, MOST_MASKED, PrivacyPlan, require_data_independent
from hansa_common.settings import Strict, parse, read_toml
from hansa_common.simulation_plan import Partition, SimulationPlan
from hansa_common.strategies import STRATEGIES, FLTrustOptions, require_step_rule, traits_of
from hansa_common.training_plan import TrainingPlan
from hansa_common.transport_plan import TransportPlan


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
    ensemble: Annotated[int, Field(ge=2, le=MOST_MEMBERS)] | None = None
    """So many of the last versions of the model are kept, delivered and tested as one, beside the last one alone."""
    explain: ExplainPlan | None = None
    column: Text | None = None
    """A column of the site's data that says ``train``, ``validation`` or ``test`` in each row; then no share counts."""
    group: Text | None = None
    """A column whose value says what a row belongs to: all of a patient, an image or an engine is in one split."""

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
        if self.column is not None and self.group is not None:
            raise ValueError("group: the data bring their split in a column; leave one of 'column' and 'group' out.")
        found, most = self.validation + self.test, 0.9
        if found > most:
            raise ValueError(f"found validation + test = {found:g}; allowed is at most {most:g}.")
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


_TWO = 2  # classes: positive and negative


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
    preprocessing: PreprocessingPlan = PreprocessingPlan()
    training: TrainingPlan
    aggregation: AggregationPlan = AggregationPlan()
    rounds: RoundsPlan
    evaluation: EvaluationPlan = EvaluationPlan()
    privacy: PrivacyPlan = PrivacyPlan()
    transport: TransportPlan = TransportPlan()
    personalisation: PersonalisationPlan | None = None
    """What of the model is each site's own; nothing where it is left out."""
    federation: FederationPlan | None = None
    """All members at the time of the proposal, where it is left out."""
    simulation: SimulationPlan | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        learned = learned_contract(self.data, self.preprocessing)
        check_model(self.model, learned, self.training, self.privacy.differential)
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
        self._check_splits()
        check_preprocessing(self.preprocessing, self.data)
        changed = self.preprocessing.changes_numbers or getattr(self.data, "standardise", "none") != "none"
        if changed and getattr(self.model_options(), "vocabulary", None) is not None:
            raise ValueError(
                "preprocessing: model.vocabulary takes token ids, which are no numbers; leave them as they are."
            )
        if self.preprocessing.needs_statistics and self.privacy.differential is not None:
            raise ValueError(
                "preprocessing: the sites' statistics leave without noise, and no budget covers them; with "
                "privacy.differential leave this section out."
            )
        self._check_privacy()
        check_explain(self.evaluation.explain, self.data, self.privacy, validation=self.evaluation.validation)
        split_by = own.method if (own := self.personalisation) is not None and own.splits_model else None
        check_ensemble(self.evaluation.ensemble, rounds=self.rounds.count, split_by=split_by)
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
                "" if len(self.data.classes) == _TWO else "two classes are needed; leave both keys out",
                "differential privacy lets no such counts out; leave out [privacy.differential] or both keys"
                if noised is not None
                else "",
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

    def _check_splits(self) -> None:
        noised = self.privacy.differential
        features = {column.name for column in self.data.columns} if self.data.kind == "table" else set()
        unit = noised.unit if noised is not None and noised.kind == "example" else None
        cut = self.data.cut_from if self.data.kind == "array" else None
        if cut is not None and (self.evaluation.column or self.evaluation.group or unit) is None:
            raise ValueError(
                "evaluation.group: examples share rows or tokens, so what they are cut from must not be in training "
                f"and test; name the column that says which one an example is of: '{cut}', or another one."
            )
        for key, name in (("column", self.evaluation.column), ("group", self.evaluation.group)):
            if name in features:
                raise ValueError(f"evaluation.{key}: '{name}' is a feature column too; it says how rows are split.")
            if name is not None and noised is not None and noised.kind == "example":
                raise ValueError(
                    f"evaluation.{key}: with privacy.differential.kind = 'example' a hash of the person's name decides "
                    "the split, so that nobody's depends on others; leave this key out, and name the person's column "
                    "in privacy.differential.unit."
                )

    def _check_privacy(self) -> None:
        masked, noised = self.privacy.secure_aggregation, self.privacy.differential
        decision = decide(
            strategy=self.aggregation.strategy,
            ring_bits=masked.ring_bits if masked else None,
            kind=noised.kind if noised else None,
            codec=self.transport.codec,
        )
        if not decision.allowed:
            section = "transport" if masked is None and noised is None else "privacy"
            raise ValueError(f"{section}: {decision.text}")
        if self.transport.holds_back and self.privacy.update_bound is not None:
            raise ValueError(
                "privacy.clipping_bound: with transport.codec = 'topk' a site would keep what the bound cut off and "
                "send it later all the same; leave out this key, or the codec."
            )
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
        traits, options = traits_of(self.aggregation.strategy, optimizer=self.training.optimizer), None
        if traits.options is not None:
            try:
                options = parse_options(traits.options, self.aggregation.options, section="aggregation")
            except PlanError as error:
                raise ValueError(error.message) from None
            if isinstance(options, FLTrustOptions):
                sites = self.federation.sites if self.federation else ()
                named = self.simulation.names if self.simulation else ()
                options.check_root(sites, named, sites_per_round=self.rounds.sites_per_round)
        factors = self.model.backbone.learning_rates if self.model.backbone is not None else {}
        require_step_rule(self.aggregation.strategy, options, self.training.model_dump(), factors)
        if traits.second_order:
            require_exact_fit(
                model=self.model,
                data=self.data,
                training=self.training,
                transport=self.transport,
                quorum=self.rounds.quorum,
                sites_per_round=self.rounds.sites_per_round,
            )
        if self.personalisation is not None:
            self._check_personalisation(self.personalisation)

    def _check_personalisation(self, personalisation: PersonalisationPlan) -> None:
        traits = STRATEGIES[self.aggregation.strategy]
        if self.carried > 1 or traits.second_order:
            does = "does not train at the sites" if traits.second_order else "carries more than the model"
            raise ValueError(
                f"personalisation: aggregation.strategy = '{self.aggregation.strategy}' {does}; choose one of both."
            )
        if self.simulation is not None and self.simulation.holdout and personalisation.splits_model:
            raise ValueError(
                f"simulation.holdout: with personalisation.method = '{personalisation.method}' no model is common to "
                "all sites and whole, so nobody can evaluate one on it; leave this key out."
            )
        if self.evaluation.explain is not None and personalisation.splits_model:
            raise ValueError(
                f"evaluation.explain: with personalisation.method = '{personalisation.method}' no model is common "
                "to all sites and whole, so there is none to explain; leave this section out."
            )
        noised = self.privacy.differential
        if refused := refused_personalisation(personalisation.method, noised.kind if noised else None):
            raise ValueError(f"personalisation: {refused}")

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
        if simulation.leave_out is not None:
            self._check_left_out()
        partition = Partition.parse(simulation.partition)
        if self.data.target is None and partition.labels_per_site > len(self.data.classes):
            raise ValueError(
                f"simulation.partition: '{simulation.partition}' asks for more labels than the "
                f"{len(self.data.classes)} classes."
            )

    def _check_left_out(self) -> None:
        """Refuse what makes a site's absence, or what the last model is at a stranger's, another question."""
        if self.privacy.secure_aggregation is not None or self.privacy.differential is not None:
            raise ValueError(
                "simulation.leave_out: with [privacy] the plan's list of sites decides masks and noise, and the "
                "left-out site's figures would be protected by neither; measure it without [privacy]."
            )
        if self.personalisation is not None and self.personalisation.splits_model:
            raise ValueError(
                f"simulation.leave_out: with personalisation.method = '{self.personalisation.method}' no model is "
                "common to all sites and whole, so there is none to test at another site; leave this key out."
            )

    def model_options(self) -> Strict:
        """Return the model's options, checked against its own type.

        Raises:
            PlanError: An option is unknown or wrong; the path starts with ``model``.
        """
        return model_options(self.model)

    def site_options(self) -> Strict | None:
        """Return the aggregation's options, checked, where the sites read them too.

        Raises:
            PlanError: An option is unknown or wrong; the path starts with ``aggregation``.
        """
        wanted = STRATEGIES[self.aggregation.strategy].options
        if wanted is None:
            return None
        options: Strict = parse_options(wanted, self.aggregation.options, section="aggregation")
        return options

    @property
    def carried(self) -> int:
        """How many vectors of the model's size travel and are stepped together."""
        return STRATEGIES[self.aggregation.strategy].carried

    @property
    def tested(self) -> int:
        """How many models the closing exchange carries: the last one, and what makes an ensemble with it.

        One with differential privacy: no budget covers the counts of a second model on the same examples.
        """
        return 1 if self.privacy.differential is not None else self.evaluation.ensemble or 1

    def update_size(self, parameters: int) -> int:
        """Return how many values a site's update has; the model has ``parameters``."""
        return STRATEGIES[self.aggregation.strategy].update_size(parameters)

    @property
    def keeps_state(self) -> bool:
        """A site keeps something of its own from round to round."""
        if self.transport.holds_back:
            return True
        own = self.personalisation is not None and self.personalisation.keeps_state
        return own or STRATEGIES[self.aggregation.strategy].keeps_state

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
        if self.simulation.leave_out is None:
            del values["leave_out"]
        del values["data"]["weights"]  # has nothing to do with who has which data
        return digest(values)

    def digest(self) -> str:
        """Return the SHA-256 of the canonical bytes of the approved part, in hexadecimal digits."""
        fields = type(self).model_fields
        unset = [key for key in ("privacy", "transport", "preprocessing") if getattr(self, key) == fields[key].default]
        values = self.approved().model_dump(mode="json")
        return digest(digested(values, unset=unset, counts_decisions=bool(self.evaluation.decision_rows)))


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
