"""Results: what a study reached, as written to ``metrics.json``; docs/results.md explains each key to a reader.

Evolution: ``format`` counts up when a meaning changes; keys are added, never renamed. A figure that cannot be computed
(ROC AUC with one class only) is ``null``, never NaN. Fractions are in 0..1, times in seconds, sizes in bytes.
"""

from typing import Literal

from pydantic import Field

from hansa_common.metrics import MainFigure, VerdictFigure
from hansa_common.settings import Strict
from hansa_server.decision_results import Decisions
from hansa_server.notice import Notice


class Scores(Strict):
    """Figures of one model on one set of examples; precision, recall, F1 and ROC AUC are means over classes.

    Which there are depends on what was learned (``Results.target``); the others are ``null``.
    """

    num_examples: int
    loss: float | None
    accuracy: float | None
    balanced_accuracy: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    roc_auc: float | None
    calibration_error: float | None
    average_precision: float | None = None
    """Mean over classes; of the second class where there are two, of anomalies where they are known."""
    rmse: float | None = None
    """Root of the mean squared error, in the unit of the number; so are the next two."""
    mae: float | None = None
    bias: float | None = None
    """Mean of predicted minus true."""
    r2: float | None = None
    cmapss_score: float | None = None
    """Sum over the examples, 0 is best; only where the plan asks for it."""
    c_index: float | None = None
    """Harrell's, over pairs of people of one site."""
    events: int | None = None
    reconstruction_error: float | None = None
    """Mean squared error of the features of normal examples."""
    anomaly_error: float | None = None
    """The same of known anomalies."""
    intervals: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """Figure -> ends of its 95 % interval, where there is a method; docs/results.md names it."""


class SiteRound(Strict):
    """One site in one round."""

    site: str
    num_examples: int | None
    train_loss: float | None
    """``null``, as the figures below, where the plan's protection or the site's policy keeps it at the site."""
    accuracy: float | None
    """Of the model that came in, on the site's validation split."""
    loss: float | None
    value: float | None = None
    """Where it is no accuracy: the main figure of that model on that split."""
    seconds: float
    """The site's own time: evaluation and training."""
    train_seconds: float
    update_norm: float | None = None
    """L2 norm of its update; ``null`` under masks, and with differential privacy."""


class Summary(Strict):
    """Main figure and loss of one model over the sites' validation splits."""

    weighted_mean_accuracy: float | None
    site_mean_accuracy: float | None
    worst_site_accuracy: float | None
    worst_site: str | None
    weighted_mean_loss: float | None
    figure: MainFigure = "accuracy"
    """What the models are compared by. Where it is no accuracy, the three accuracies are ``null`` and these say it:"""
    weighted_mean: float | None = None
    """Over all examples together; of the C-index over all pairs."""
    site_mean: float | None = None
    worst: float | None = None
    """Of ``worst_site``."""

    @property
    def overall_value(self) -> float | None:
        """The main figure over all examples."""
        return self.weighted_mean_accuracy if self.figure == "accuracy" else self.weighted_mean

    @property
    def worst_value(self) -> float | None:
        """The main figure of the worst site."""
        return self.worst_site_accuracy if self.figure == "accuracy" else self.worst


class RoundResult(Strict):
    """One round. ``incoming`` belongs to the model the round started from (version ``round - 1``)."""

    round: int
    seconds: float
    incoming: Summary
    train_loss: float | None
    """Mean over the sites, weighted by examples; ``null`` where differential privacy keeps it at the sites."""
    sites: tuple[SiteRound, ...]
    missing: dict[str, str]
    """Site -> why its update is not in this round."""
    left_out: tuple[str, ...] = ()
    """Sites whose update came and did not count, because the strategy chose others."""
    void_attempts: tuple[str, ...] = ()
    """With secure aggregation: why the round had to be repeated, once for each repetition."""
    clipping_bound: float | None = None
    """L2 bound of this round's updates, where it moves from round to round."""
    next_clipping_bound: float | None = None
    """Where this round moved it."""
    bytes_up: int
    bytes_down: int


class SiteResult(Strict):
    """One site: who it is, what it holds, and what each model reaches on its test split."""

    site: str
    examples: dict[Literal["train", "validation", "test"], int]
    """Empty where the plan's protection or the site's policy keeps the sizes at the site."""
    class_counts: tuple[int, ...]
    """Examples of each of ``Results.classes``, all three splits together; empty as ``examples``."""
    federated: Scores | None
    """Of the common model; where layers stay at the sites (``fedbn``, ``fedper``), of it and its own layers."""
    personal: Scores | None = None
    """Of the site's own model (``[personalisation]``); ``null`` where the plan's protection keeps it at the site."""
    ensemble: Scores | None = None
    """Of the last versions of the model as one."""
    local_only: Scores | None = None
    """The site's own model, trained alone with the same budget (``--baselines``)."""
    pooled: Scores | None = None
    """One model trained on all data in one place with the same budget (``--baselines``)."""
    confusion: tuple[tuple[int, ...], ...] | None = None
    """Federated model, test split: rows are true classes, columns predicted ones."""
    rounds_contributed: int


class WorstSite(Scores):
    """The scores of the site with the lowest accuracy, or the worst main figure."""

    site: str


class LeftOutSite(Scores):
    """The scores of the last model on all examples of a site that took part in no round."""

    site: str


class WorstAgainstLocal(Strict):
    """The worst site by ``figure`` beside its own local-only model."""

    site: str
    figure: VerdictFigure = "accuracy"
    """Where it is another one than the accuracy, the next two are ``null``, and the two after them say it."""
    federated_accuracy: float | None = None
    local_only_accuracy: float | None = None
    federated: float | None = None
    local_only: float | None = None
    difference: float
    """Federated minus local-only, the other way round where less is better; positive: it paid to take part."""

    @property
    def values(self) -> tuple[float | None, float | None]:
        """The federated model's figure, and the local-only one's."""
        if self.figure == "accuracy":
            return self.federated_accuracy, self.local_only_accuracy
        return self.federated, self.local_only


class PersonalSummary(Strict):
    """The sites' own models, each on its site's test split."""

    method: str
    site_mean: Scores
    worst_site: WorstSite
    below_local_only: tuple[str, ...] | None = None
    """Sites whose own model is worse, by the figure of the verdict, than one trained there alone (``--baselines``)."""


class ReliabilityBin(Strict):
    """Answers of one bin of confidence."""

    confidence: float
    """Mean probability of the predicted class."""
    accuracy: float
    """Share of right answers; equal to the confidence where it can be believed."""
    num_examples: int


class Tested(Strict):
    """What is known of a model on the sites' test splits."""

    weighted_mean: Scores | None
    """All test examples together: computed from merged counts; ``null`` where differential privacy lets none out."""
    site_mean: Scores | None
    """Plain mean over the sites; ``num_examples`` is the mean size. ``null`` where the sites' figures are masked."""
    worst_site: WorstSite | None
    """``null`` where the sites' figures are masked."""


class Ensemble(Tested):
    """The last versions of the model as one (``evaluation.ensemble``)."""

    rounds: tuple[int, ...]
    """Which rounds gave them, the newest first."""


class Final(Tested):
    """The last model on the sites' test splits."""

    worst_site_against_local: WorstAgainstLocal | None
    """Only with ``--baselines``."""
    confusion: tuple[tuple[int, ...], ...]
    """Empty where ``weighted_mean`` is ``null``."""
    personal: PersonalSummary | None = None
    """Only with ``[personalisation]``, where the sites' figures leave."""
    ensemble: Ensemble | None = None
    coordinator: Scores | None
    """On the coordinator's own test set, where there is one."""
    left_out: LeftOutSite | None = None
    """Where the plan leaves a site out (``--leave-out``)."""
    validation: Summary
    decisions: Decisions | None = None
    """Where the plan names costs or groups."""
    reliability: tuple[ReliabilityBin, ...] = ()
    """Of a classifier, all test examples together, by rising confidence; empty where only right and wrong is known."""


class Masks(Strict):
    """Secure aggregation as it was used."""

    ring_bits: int
    coordinate_range: float
    cohort: Literal["fixed", "changing"]
    sites: int
    """How many the plan lists."""
    threshold: int
    """So many must deliver, and so many together could unmask one of them."""
    colluders: int
    """So many sites may collude with the coordinator without learning another's update."""


class Noise(Strict):
    """Differential privacy as it was used."""

    kind: Literal["example", "site_server", "site_distributed"]
    clipping_bound: float
    """Of the first round, where it moves."""
    quantile: float | None = None
    """Of the norms of updates, which the clipping bound follows; ``null`` where it does not move."""
    noise_multiplier: float
    epsilon_budget: float
    delta: float
    epsilon: float | None
    """What the rounds so far cost a site; ``null`` with ``example``, where each site's own ledger knows."""
    unit: str
    """Whom it protects: ``site``, ``person``, or the column that says whose a row is."""
    metrics_noise: float | None = None


class Protection(Strict):
    """What protected the sites' updates."""

    weights: Literal["examples", "equal"]
    clipping_bound: float | None
    """L2 bound of an update, applied at each site."""
    masks: Masks | None
    noise: Noise | None


class BaselineSummary(Strict):
    """The same four figures' first three for a baseline, on the sites' test splits."""

    weighted_mean: Scores
    site_mean: Scores
    worst_site: WorstSite


class CrossSite(Strict):
    """Every model on every site's test split, by the main figure."""

    figure: MainFigure
    sites: tuple[str, ...]
    """Whose test split a column is, and whose model a row of ``local_only`` is."""
    federated: tuple[float | None, ...]
    """``null`` where protection keeps it at the site."""
    local_only: tuple[tuple[float | None, ...], ...]


class Baselines(Strict):
    """What the sites would have had without federation, and with all data in one place."""

    local_only: BaselineSummary
    pooled: BaselineSummary
    cross_site: CrossSite | None = None
    """``null`` with one site, and where there are too many to test every model at each."""


class Timing(Strict):
    """Wall-clock seconds of this study, runs before a resume included; ``sites_*`` add up the sites' own time."""

    total_seconds: float
    setup_seconds: float
    rounds_seconds: float
    closing_seconds: float
    baselines_seconds: float
    sites_training_seconds: float
    sites_evaluation_seconds: float


class Traffic(Strict):
    """Payload bytes of all messages: ``up`` from the sites to the server, ``down`` the other way."""

    up: int
    down: int


class ExplanationView(Strict):
    """Attributions, summed over one way of grouping the inputs."""

    name: Literal["columns", "features", "steps", "cells"]
    rows: int
    """Of the grid in which the groups lie; 0 where they have no place."""
    labels: tuple[str, ...]
    importance: tuple[tuple[float, ...] | None, ...]
    """By class: mean absolute attribution of each group to the score of the class; ``null`` for too few examples."""
    direction: tuple[tuple[float, ...] | None, ...]
    """By class: mean attribution; positive where the group spoke for the class."""


class Explanation(Strict):
    """Why the last model answers as it does, over the sites' examples (``[evaluation.explain]``)."""

    method: Literal["integrated_gradients", "grad_cam", "shapley"]
    split: Literal["validation", "test"]
    minimum_examples: int
    """A class with fewer at a site, or in all, is not in it."""
    scores: tuple[str, ...]
    """What is explained: the classes, or the number that is predicted."""
    explained: tuple[int, ...]
    """Examples by score."""
    views: tuple[ExplanationView, ...]
    unexplained: dict[str, str]
    """Site -> why it is not in it."""


class FeatureStatistics(Strict):
    """One feature over the training splits of all sites."""

    name: str
    count: int
    missing: int
    """Rows without a value, at sites that have enough values."""
    mean: float
    deviation: float
    quartiles: tuple[float, float, float] | None = None
    """From the histogram, where the plan asks for one."""


class Results(Strict):
    """Everything a report shows."""

    format: Literal[1] = 1
    run: str
    """The folder of the run, as it was named when it ran."""
    study: str
    purpose: str
    plan_digest: str
    status: Literal["completed", "stopped", "failed"]
    reason: str
    """Why it stopped or failed; empty when completed."""
    engine: str
    seed: int
    model: str
    parameters: int
    strategy: str
    partition: str | None
    data_origin: str
    classes: tuple[str, ...]
    """What examples are counted by: the classes; of other targets what there is, as ``normal`` and ``anomaly``."""
    target: Literal["classes", "number", "survival", "reconstruction"] = "classes"
    """What was learned."""
    unit: str = ""
    """Of a number."""
    rounds_planned: int
    started_at: str
    """ISO 8601, UTC."""
    sites: tuple[SiteResult, ...]
    rounds: tuple[RoundResult, ...]
    final: Final | None
    """``null`` where the study ended before the closing exchange."""
    baselines: Baselines | None
    timing: Timing
    bytes: Traffic
    statistics: tuple[FeatureStatistics, ...] = ()
    """Of the features over all sites, where the plan's preprocessing gathered them."""
    notices: tuple[Notice, ...] = ()
    """What the study noticed about itself, in the order in which it appeared."""
    protection: Protection | None = None
    """``null`` where the plan asks for none."""
    explanation: Explanation | None = None
    """``null`` where the plan asks for none, or the study ended before."""
    model_sha256: str
    """Of the parameters as little-endian float32."""
    environment: dict[str, str]
