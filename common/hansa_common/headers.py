"""What kinds of messages there are: the header of each, small and in JSON.

Evolution: ``protocol`` counts up when a meaning changes; a peer with another number is refused by that number.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter

from hansa_common.parameters import ParameterSpec
from hansa_common.plan_names import SiteName
from hansa_common.prepared import Prepared
from hansa_common.privacy_plan import MOST_MASKED
from hansa_common.settings import Strict
from hansa_common.signing import PublicKey

MAX_HEADER = 8 << 20  # bytes; a plan with 10,000 columns is about 1 MiB

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RoundNumber = Annotated[int, Field(ge=0, le=1_000_000)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Seconds = Annotated[float, Field(ge=0.0, le=1e9)]
Loss = Annotated[float, Field(ge=0.0, le=1e30)]
Text = Annotated[str, Field(max_length=2_000)]
Attempt = Annotated[int, Field(ge=1, lt=1 << 16)]
Statement = Annotated[str, Field(pattern=r"^(?:[0-9a-f]{2}){1,500}$")]
"""Bytes of the secure aggregation's protocol in hexadecimal digits."""


class _Header(Strict):
    protocol: Literal[1] = 1
    carries_vector: ClassVar[bool] = False
    may_pack: ClassVar[bool] = False
    """The vector may be bytes of a codec instead."""
    carries_counts: ClassVar[bool | None] = False
    """``None``: unless the plan's protection keeps them at the site."""
    carries_masked: ClassVar[bool] = False
    carries_sums: ClassVar[bool] = False
    carries_statement: ClassVar[bool | None] = False
    """``None``: with secure aggregation only."""


class OpenTask(_Header):
    """Server to site: prepare for this study; check the data against its contract."""

    kind: Literal["open"] = "open"
    plan: Annotated[str, Field(max_length=MAX_HEADER)]
    """The plan as JSON. A simulated site also reads ``simulation`` in it, a real one only the approved part."""
    folder: Annotated[str, Field(max_length=4_096)] = ""
    """Where a simulated site keeps its state from round to round; a real one has a folder of its own."""


class Opened(_Header):
    """Site to server: ready, and what it brings."""

    kind: Literal["opened"] = "opened"
    plan_digest: Digest
    site: SiteName
    train: Count
    validation: Count
    test: Count
    class_counts: Annotated[tuple[Count, ...], Field(max_length=10_000)]
    """Empty, and the sizes 0, where the plan's protection or the site's policy keeps them at home."""
    origin: Text
    version: Text
    device: Text
    study_key: Statement | None = None
    """With secure aggregation: the site's key for this study, signed by it."""
    signing_key: PublicKey | None = None
    """Of a simulated site, whose keys no roster has."""


class InitialTask(_Header):
    """Server to one site: initialise the model with the plan's seed."""

    kind: Literal["initial-task"] = "initial-task"
    plan_digest: Digest


class Initial(_Header):
    """Site to server: the tensors of the model and their initial values."""

    kind: Literal["initial"] = "initial"
    carries_vector: ClassVar[bool] = True
    plan_digest: Digest
    spec: ParameterSpec


class StatisticsTask(_Header):
    """Server to site: measure the training split, for the plan's preprocessing; once, before the first round."""

    kind: Literal["statistics-task"] = "statistics-task"
    carries_statement: ClassVar[bool | None] = None
    plan_digest: Digest
    round: Annotated[int, Field(ge=0, le=0)] = 0
    """With secure aggregation: round 0, for the statistics are summed as a round of their own."""
    attempt: Attempt = 1


class Statistics(_Header):
    """Site to server: its statistics, as sums; under masks a ``MaskedEvaluated`` comes instead."""

    kind: Literal["statistics"] = "statistics"
    carries_sums: ClassVar[bool] = True
    plan_digest: Digest
    site: SiteName
    seconds: Seconds


class TrainTask(_Header):
    """Server to site: evaluate these parameters on the validation split, then train from them."""

    kind: Literal["train"] = "train"
    carries_vector: ClassVar[bool] = True
    may_pack: ClassVar[bool] = True
    carries_statement: ClassVar[bool | None] = None
    plan_digest: Digest
    round: RoundNumber
    attempt: Attempt
    next_attempt: Annotated[int, Field(ge=0, lt=1 << 16)] = 0
    """With secure aggregation: attempt of the next round, whose setup comes with the update; 0 asks for none."""
    basis: RoundNumber = 0
    """Last round in which this site's update was counted: what it kept then, the task builds on. 0: none."""
    prepared: Prepared | None = None
    """What the sites' statistics make of the features, where the plan has preprocessing."""
    clipping_bound: Annotated[float, Field(gt=0.0, le=1e9)] | None = None
    """L2 bound of this round's updates, where the plan has it move."""


class Update(_Header):
    """Site to server: the delta, and counts of the incoming model on the validation split."""

    kind: Literal["update"] = "update"
    carries_vector: ClassVar[bool] = True
    may_pack: ClassVar[bool] = True
    carries_counts: ClassVar[bool | None] = None
    plan_digest: Digest
    round: RoundNumber
    attempt: Attempt
    site: SiteName
    num_examples: Count
    train_loss: Loss
    incoming_loss: Loss | None = None
    """Mean loss of the incoming model on the training split, where the strategy asks for it."""
    steps: Count
    seconds: Seconds
    train_seconds: Seconds
    was_within: bool | None = None
    """Whether the update was as short as the round's bound before it was clipped, where the bound moves by that."""


class EvaluateTask(_Header):
    """Server to site: count what these parameters get right; the closing exchange of a study."""

    kind: Literal["evaluate"] = "evaluate"
    carries_vector: ClassVar[bool] = True
    carries_statement: ClassVar[bool | None] = None
    plan_digest: Digest
    round: RoundNumber = 0
    """With secure aggregation: one more than the plan has, for the counts are summed as a round of their own; two more
    than that each time the study was resumed."""
    attempt: Attempt = 1
    subject: Literal["site", "coordinator", "left_out"] = "site"
    """``coordinator``: the test set that no site has; ``left_out``: all data of a site that trained in no round. Both
    only in a simulation."""
    basis: RoundNumber = 0
    """As of ``TrainTask``."""
    prepared: Prepared | None = None


class Evaluated(_Header):
    """Site to server: counts named ``validation`` and ``test``."""

    kind: Literal["evaluated"] = "evaluated"
    carries_counts: ClassVar[bool | None] = None
    plan_digest: Digest
    site: SiteName
    seconds: Seconds


class ExplainTask(_Header):
    """Server to site: sum the attributions of this model, as ``[evaluation.explain]`` says."""

    kind: Literal["explain"] = "explain"
    carries_vector: ClassVar[bool] = True
    carries_statement: ClassVar[bool | None] = None
    plan_digest: Digest
    round: RoundNumber = 0
    """With secure aggregation: that of ``EvaluateTask`` and one more, for the sums are a round of their own."""
    attempt: Attempt = 1
    prepared: Prepared | None = None
    """As of ``TrainTask``."""
    folder: Annotated[str, Field(max_length=4_096)] = ""
    """Of the run, where a simulated site keeps pictures of its examples; a real site refuses one."""


class Explained(_Header):
    """Site to server: the sums of attributions, of the classes with enough examples."""

    kind: Literal["explained"] = "explained"
    carries_sums: ClassVar[bool] = True
    plan_digest: Digest
    site: SiteName
    seconds: Seconds


class SetupTask(_Header):
    """Server to site: prepare to mask one round."""

    kind: Literal["setup"] = "setup"
    plan_digest: Digest
    round: RoundNumber
    attempt: Attempt
    study_keys: Annotated[tuple[Statement, ...], Field(max_length=MOST_MASKED)]
    """Of the sites that opened the study, each signed by its site."""
    signing_keys: Annotated[dict[SiteName, PublicKey], Field(max_length=MOST_MASKED)] = Field(default_factory=dict)
    """Of simulated sites; a real site knows the others by its own roster and reads nothing here."""


class SetUp(_Header):
    """Site to server: its setup, signed."""

    kind: Literal["set-up"] = "set-up"
    carries_statement: ClassVar[bool | None] = True
    plan_digest: Digest
    round: RoundNumber
    attempt: Attempt
    site: SiteName


class MaskedUpdate(_Header):
    """Site to server: the update and the counts under masks, and the setup for the next round where it was asked for.

    The counts of one site are beside them only if its own policy lets them out.
    """

    kind: Literal["masked-update"] = "masked-update"
    carries_counts: ClassVar[bool | None] = None
    carries_masked: ClassVar[bool] = True
    carries_sums: ClassVar[bool] = True
    carries_statement: ClassVar[bool | None] = True
    plan_digest: Digest
    round: RoundNumber
    attempt: Attempt
    site: SiteName
    seconds: Seconds
    train_seconds: Seconds


class MaskedEvaluated(_Header):
    """Site to server: the counts of ``EvaluateTask`` under masks."""

    kind: Literal["masked-evaluated"] = "masked-evaluated"
    carries_counts: ClassVar[bool | None] = None
    carries_sums: ClassVar[bool] = True
    carries_statement: ClassVar[bool | None] = True
    plan_digest: Digest
    round: RoundNumber
    attempt: Attempt
    site: SiteName
    seconds: Seconds


class MaskedExplained(_Header):
    """Site to server: the sums of ``ExplainTask`` under masks."""

    kind: Literal["masked-explained"] = "masked-explained"
    carries_sums: ClassVar[bool] = True
    carries_statement: ClassVar[bool | None] = True
    plan_digest: Digest
    round: RoundNumber
    attempt: Attempt
    site: SiteName
    seconds: Seconds


class ConfirmTask(_Header):
    """Server to site: these sites' masked inputs arrived; sign that they are the ones that are added."""

    kind: Literal["confirm"] = "confirm"
    carries_statement: ClassVar[bool | None] = True
    plan_digest: Digest
    round: RoundNumber
    attempt: Attempt


class Confirmed(_Header):
    """Site to server: its signature under the survivors."""

    kind: Literal["confirmed"] = "confirmed"
    carries_statement: ClassVar[bool | None] = True
    plan_digest: Digest
    round: RoundNumber
    attempt: Attempt
    site: SiteName


class UnmaskTask(_Header):
    """Server to site: enough sites signed; hand out what removes the masks from the sum."""

    kind: Literal["unmask"] = "unmask"
    plan_digest: Digest
    round: RoundNumber
    attempt: Attempt
    confirmations: Annotated[tuple[Statement, ...], Field(min_length=1, max_length=MOST_MASKED)]


class Unmasked(_Header):
    """Site to server: its shares."""

    kind: Literal["unmasked"] = "unmasked"
    carries_statement: ClassVar[bool | None] = True
    plan_digest: Digest
    round: RoundNumber
    attempt: Attempt
    site: SiteName


class BaselineTask(_Header):
    """Server to site: train without federation, from the initial parameters, with the study's whole budget."""

    kind: Literal["baseline-task"] = "baseline-task"
    carries_vector: ClassVar[bool] = True
    plan_digest: Digest
    subject: Literal["local", "pooled"]
    """``pooled``: on all sites' data together; only in a simulation."""
    everywhere: bool = False
    """With ``local``: count on the test splits of all simulated sites, not only on this one's."""
    prepared: Prepared | None = None


class Baseline(_Header):
    """Site to server: the baseline's counts on test splits, named by site."""

    kind: Literal["baseline"] = "baseline"
    carries_counts: ClassVar[bool | None] = True
    plan_digest: Digest
    subject: Literal["local", "pooled"]
    site: SiteName
    seconds: Seconds


class DeliverTask(_Header):
    """Server to site: the study's last model, to keep."""

    kind: Literal["deliver"] = "deliver"
    carries_vector: ClassVar[bool] = True
    plan_digest: Digest
    spec: ParameterSpec
    card: Annotated[str, Field(max_length=1 << 20)]
    """The model card, as Markdown."""
    sha256: Digest
    """Of the vector's bytes, as in metrics.json."""
    prepared: Prepared | None = None
    """What must be done to features before this model sees them."""


class Delivered(_Header):
    """Site to server: the model lies on the site's disk."""

    kind: Literal["delivered"] = "delivered"
    plan_digest: Digest
    site: SiteName


class Refusal(_Header):
    """Site to server: the task was not done; ``code`` is an error class, ``reason`` holds no value from the data."""

    kind: Literal["refusal"] = "refusal"
    code: Annotated[str, Field(max_length=64)]
    site: SiteName
    reason: Text


MaskingTask = SetupTask | ConfirmTask | UnmaskTask
MaskingReply = SetUp | Confirmed | Unmasked
Task = (
    OpenTask
    | InitialTask
    | StatisticsTask
    | TrainTask
    | EvaluateTask
    | ExplainTask
    | BaselineTask
    | DeliverTask
    | MaskingTask
)
Reply = (
    Opened
    | Initial
    | Statistics
    | Update
    | Evaluated
    | Baseline
    | Delivered
    | Refusal
    | MaskedUpdate
    | MaskedEvaluated
    | Explained
    | MaskedExplained
    | MaskingReply
)
Header = Annotated[Task | Reply, Field(discriminator="kind")]
HEADER: TypeAdapter[Task | Reply] = TypeAdapter(Header)
