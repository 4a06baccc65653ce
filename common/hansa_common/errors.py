"""The exception tree of the whole system.

Every error says what happened (``message``), and what to do (``advice``). The class says whose fault it is:

* ``UsageError``: the person who typed the command or wrote the plan. Exit code 2.
* ``DataError``: the data a site holds. Its message may name columns, rows and values, so it stays at the site.
* ``TrainingError``, ``ReleaseRefused``: the site, while it works on a task.
* ``MessageError``: the peer sent something that cannot be parsed or does not belong here.
* ``UpdateRefused``: a well-formed update that the server does not fold in.
* ``StudyFailed``: the study could not go on. Exit code 1.
* ``StorageError``: this machine's disk. Exit code 1.
* ``MaskingRefused``: a site does not go on with secure aggregation; ``site`` names who gave it reason, if known.
* ``RoundVoid``, ``SiteBlamed``: the server cannot open a masked sum; too few sites, or one that broke the protocol.

A plain ``RuntimeError`` is a bug in the caller: an operation out of order.

What may leave a site is only ``code`` and ``public``: neither ever holds a value from the data.
"""

from typing import ClassVar


class HansaError(Exception):
    """Base of every error that Hansa raises on purpose.

    Args:
        message: What happened, one sentence, for the person at this machine.
        advice: What to do about it, one sentence, or empty where nothing can be done.
    """

    code: ClassVar[str] = "error"
    public: ClassVar[str] = "The operation failed."
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.message} {self.advice}".strip()


class UsageError(HansaError):
    """The command line, the plan or a settings file asks for something that cannot be done."""

    code = "usage"
    public = "The request cannot be done as it was asked for."
    exit_code = 2


class SettingsError(UsageError):
    """A TOML file does not have the keys, types or values it must have; ``path`` names the key."""

    code = "settings"
    public = "A settings file is not valid."

    def __init__(self, message: str, *, path: str = "", advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.path = path


class PlanError(SettingsError):
    """A study plan is not valid; ``path`` names the key, the message what was found and what is allowed."""

    code = "plan"
    public = "The study plan is not valid."


class PrivacyError(UsageError):
    """A differential privacy setting gives no guarantee, or mixes guarantees that do not add up."""

    code = "privacy"
    public = "The differential privacy settings give no guarantee."


class PartitionError(UsageError):
    """A data set cannot be split into sites the way it was asked for."""

    code = "partition"
    public = "The data set cannot be split into the sites asked for."


class DataError(HansaError):
    """The data a site holds cannot be used for this study."""

    code = "data"
    public = "The site's data cannot be used for this study; its data steward sees why."


class DataUnavailable(DataError):
    """The data cannot be read: a missing file, a broken archive, a failed download."""

    code = "data-unavailable"
    public = "The site's data cannot be read; its data steward sees why."


class WeightsUnavailable(DataError):
    """The weights that a plan names are not at the site, or are others."""

    code = "weights-unavailable"
    public = "The site does not have the weights that the plan's model starts from."


class ContractViolation(DataError):
    """The data can be read and does not fulfil the study's data contract."""

    code = "contract"
    public = "The site's data does not fulfil the data contract; its data steward sees which column and rows."


class TrainingError(HansaError):
    """Local training failed."""

    code = "training"
    public = "Local training failed; the site's log says why."


class TrainingOutOfMemory(TrainingError):
    """The device or the machine has too little memory for this model and batch size."""

    code = "out-of-memory"
    public = "The site has too little memory for this model and batch size."


class WorkerLost(TrainingError):
    """The process that trains hung, died or was ended; the next task gets a new one."""

    code = "worker-lost"
    public = "The site's worker process died or was ended; the site's log says why."


class ReleaseRefused(HansaError):
    """The site's own release step refused to let an update out."""

    code = "release"
    public = "The site's release step refused the update: not finite, or not of the shape the plan asks for."


class TaskRefused(HansaError):
    """The site refuses a task: it does not belong to a study that is open here, or the policy forbids it."""

    code = "task-refused"
    public = "The site refuses this task."


class MessageError(HansaError):
    """The peer's bytes are no valid message of this protocol."""

    code = "message"
    public = "The message is not valid."


class UpdateRefused(HansaError):
    """The server does not fold this update in; ``site`` says whose it is."""

    code = "update-refused"
    public = "The update was refused."

    def __init__(self, message: str, *, site: str, advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.site = site


class StudyFailed(HansaError):
    """The study cannot go on; what was reached is in the run's folder."""

    code = "study-failed"
    public = "The study failed."


class StudyInterrupted(StudyFailed):
    """The operator stopped the study; what was reached is in the run's folder."""

    code = "study-interrupted"
    public = "The study was stopped by its operator."


class StorageError(HansaError):
    """Something could not be written or read back; nothing half-written is left."""

    code = "storage"
    public = "The disk of this machine failed or is full."


class IdentityError(HansaError):
    """A key, certificate, signature or fingerprint is not what it must be: somebody is not who they say."""

    code = "identity"
    public = "A signature, key or certificate does not hold."


class Unreachable(HansaError):
    """The other end cannot be reached over the network."""

    code = "unreachable"
    public = "The other end cannot be reached."


class PeerRefused(HansaError):
    """The other end answered and refused; ``denial`` is its reason as a code."""

    code = "peer-refused"
    public = "The other end refused."

    def __init__(self, message: str, *, denial: str, advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.denial = denial


class NotApproved(TaskRefused):
    """The site did not approve this plan."""

    code = "not-approved"
    public = "The site has not approved this plan."


class AnsweredBefore(TaskRefused):
    """The site's reply to this task was acknowledged and is gone; nothing is trained twice."""

    code = "answered-before"
    public = "The site answered this task before; resume the study if the coordinator was restored from a backup."


class PolicyRefused(TaskRefused):
    """The site's own policy does not allow what the plan asks for."""

    code = "policy"
    public = "The site's policy does not allow this plan."


class BudgetExceeded(TaskRefused):
    """The privacy budget of the site's people would be overspent; ``rounds_left`` of the study's rounds still fit."""

    code = "budget"
    public = "The site's privacy budget does not allow this round."

    def __init__(self, message: str, *, rounds_left: int, advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.rounds_left = rounds_left


class SitePaused(TaskRefused):
    """The site's operator has paused it."""

    code = "paused"
    public = "The site is paused by its operator."


class DiskTooFull(TaskRefused):
    """The task would leave less of the site's disk free than its settings ask for."""

    code = "disk-too-full"
    public = "The site's disk is too full for this task; its operator must free space."


class JournalError(HansaError):
    """A hash-chained record was changed, cut or cannot be read."""

    code = "journal"
    public = "A record is not as it was written."


class MaskingRefused(TaskRefused):
    """The site does not go on with this round of secure aggregation; nothing that opens an update has left.

    Args:
        message: What happened.
        site: Who gave reason, or empty where that is the server or nobody.
        advice: What to do about it.
    """

    code = "masking-refused"
    public = "The site does not go on with this round of secure aggregation."

    def __init__(self, message: str, *, site: str = "", advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.site = site


class KeyRefused(MaskingRefused):
    """A key for secure aggregation is not that of an enrolled site of the plan; ``site`` says whose it should be."""

    code = "key-refused"
    public = "A key for secure aggregation is not that of an enrolled site of the plan."


class SetupRefused(MaskingRefused):
    """A site's setup breaks the protocol; ``site`` says whose it is."""

    code = "setup-refused"
    public = "A site's setup for secure aggregation does not hold; the site's log names it."


class SetupLost(MaskingRefused):
    """The secrets of a setup were kept in memory only and are gone: the site sits this round out."""

    code = "setup-lost"
    public = "The secrets of the site's setup are gone, as after a restart; it sits this round out."


class RoundReplayed(MaskingRefused):
    """The round, or this step of it, is over for this site."""

    code = "round-replayed"
    public = "This round of secure aggregation, or this step of it, is over for the site."


class OutOfTurn(MaskingRefused):
    """A step was asked for before the one that it follows."""

    code = "out-of-turn"
    public = "This step of secure aggregation was asked for before the one that it follows."


class SecondStory(MaskingRefused):
    """The server told two stories: a second announcement or a second set of survivors for one round."""

    code = "second-story"
    public = "A second announcement or a second set of survivors was sent for one round."


class TooFewSites(MaskingRefused):
    """A sum over so few sites would say too much about one of them."""

    code = "too-few-sites"
    public = "A sum over so few sites would say too much about one of them."


class SetRefused(MaskingRefused):
    """A set of survivors is not one that this site may sign."""

    code = "set-refused"
    public = "The set of survivors is not one that the site may sign."


class NotConfirmed(MaskingRefused):
    """Fewer sites than the threshold signed the set of survivors, or a signature does not hold."""

    code = "not-confirmed"
    public = "The set of survivors is not confirmed by enough sites."


class RolledBack(MaskingRefused):
    """The site saw a signature of its own that it does not remember: its state is older than what it did."""

    code = "rolled-back"
    public = "The site's state is older than what it has signed; its organisation must issue a new key."


class RoundVoid(HansaError):
    """A masked round cannot be opened: too few sites reached a step.

    Args:
        message: What happened.
        phase: ``setup``, ``masked-input``, ``confirmation`` or ``unmask``.
        missing: Who did not reach it.
        opened: A set of survivors was sent, so the round counts as opened whether or not its sum is known.
        advice: What to do about it.
    """

    code = "round-void"
    public = "The round cannot be opened: too few sites are left."

    def __init__(
        self, message: str, *, phase: str, missing: tuple[str, ...], opened: bool = False, advice: str = ""
    ) -> None:
        super().__init__(message, advice=advice)
        self.phase = phase
        self.missing = missing
        self.opened = opened


class SiteBlamed(HansaError):
    """A site broke secure aggregation in a way that commitments prove.

    Args:
        message: What happened.
        site: Who did it.
        role: ``answerer``: the share it sent is not the one it was dealt. ``dealer``: the shares it dealt are of
            another secret than it said.
        advice: What to do about it.
    """

    code = "site-blamed"
    public = "A site broke secure aggregation; the study pauses."

    def __init__(self, message: str, *, site: str, role: str, advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.site = site
        self.role = role
