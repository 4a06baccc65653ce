"""The only way out of a site: what the work gave leaves here, protected as the plan says, or does not leave.

Only ``hansa_client.session`` imports this module, and no other module sees both a trained delta and the message that
carries it away (an architecture test holds both).

The order of an update: finite, clipped to the plan's L2 bound, weighted, rounded into the ring, the site's part of the
noise added, masked. With differential privacy no size, loss, time or count leaves but those that were noised.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from hansa_client.clipping import clip
from hansa_client.masking import Masking
from hansa_common.errors import MessageError, ReleaseRefused
from hansa_common.explain_plan import num_groups, scores_of
from hansa_common.feature_sums import num_words
from hansa_common.messages import (
    Envelope,
    Evaluated,
    EvaluateTask,
    Explained,
    ExplainTask,
    MaskedEvaluated,
    MaskedExplained,
    MaskedUpdate,
    Message,
    Opened,
    Statistics,
    StatisticsTask,
    Sums,
    TrainTask,
    Update,
    encode,
)
from hansa_common.metrics import ClassificationCounts, Counts, Importance
from hansa_common.metrics.decisions import without_small_groups
from hansa_common.parameters import Vector, is_finite
from hansa_common.plan import StudyPlan
from hansa_common.protection import counts_leave, encode_update, evaluation_sums, round_sums
from hansa_common.transport import update_message

_NO_SUMS: Sums = np.zeros(0, np.uint64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What one site lets out in one study.

    Attributes:
        plan: The study as this site approved it.
        parameters: The length an update must have: ``P``, unless the strategy asks for more.
        max_bytes: Largest reply this site sends.
        masking: Its part in secure aggregation, where the plan asks for that.
        shows_figures: The site's policy lets its own sizes and counts out beside the masked ones.
    """

    plan: StudyPlan
    parameters: int
    max_bytes: int
    masking: Masking | None = None
    shows_figures: bool = False

    def reply(self, task: Message, reply: Message) -> Envelope:
        """Turn what the work gave into what may leave.

        Args:
            task: What it was asked.
            reply: Of the work, which knows of no protection but that of DP-SGD.

        Raises:
            ReleaseRefused: It must not leave.
            MaskingRefused: Secure aggregation does not go on at this site.
            StorageError: What must be durable before it leaves could not be written.
        """
        header = reply.header
        if isinstance(header, Opened):
            message = Message(header=self._opened(header))
        elif isinstance(header, Update):
            assert reply.vector is not None
            message = self._update(task, header, reply.vector, reply.counts["validation"])
        elif isinstance(header, Evaluated) and isinstance(task.header, EvaluateTask) and task.header.subject == "site":
            message = self._evaluated(task, task.header, header, reply.counts)
        elif isinstance(header, Explained) and isinstance(task.header, ExplainTask):
            assert reply.sums is not None
            message = self._explained(task, task.header, header, reply.sums)
        elif isinstance(header, Statistics) and isinstance(task.header, StatisticsTask) and reply.sums is not None:
            message = self._statistics(task, task.header, header, reply.sums)
        else:
            message = reply  # initial parameters, which the plan's seed gives; and what only a simulation has
        envelope = encode(message)
        if envelope.num_bytes > self.max_bytes:
            raise ReleaseRefused(
                f"The reply is {envelope.num_bytes:,} bytes; this site sends at most {self.max_bytes:,}.",
                advice="Raise the site's limit or use a smaller model; nothing left.",
            )
        return envelope

    @property
    def _is_noised(self) -> bool:
        return self.plan.privacy.differential is not None

    @property
    def _counts_leave(self) -> bool:
        """Counts leave, alone or under masks; with differential privacy only those that the work has noised."""
        return counts_leave(self.plan.privacy)

    @property
    def _shows_own(self) -> bool:
        """Sizes and counts of this site alone leave."""
        return not self._is_noised and (self.masking is None or self.shows_figures)

    def _opened(self, header: Opened) -> Opened:
        if not self._shows_own:
            known = header.train if self.plan.privacy.weights == "examples" else 0
            header = header.model_copy(update={"train": known, "validation": 0, "test": 0, "class_counts": ()})
        return self.masking.introduce(header) if self.masking is not None else header

    def _update(self, task: Message, header: Update, delta: Vector, counts: Counts) -> Message:
        if delta.dtype != "float32" or delta.shape != (self.parameters,):
            raise ReleaseRefused(
                f"The update is {delta.dtype} {list(delta.shape)}; the plan asks for float32 [{self.parameters}].",
                advice="The training procedure returned the wrong tensors; nothing left this site.",
            )
        if not is_finite(delta):
            raise ReleaseRefused(
                "The update holds NaN or infinity.",
                advice="Training diverged: lower training.learning_rate or set training.gradient_clip; nothing left.",
            )
        sites = self.masking.terms.n if self.masking is not None else 0
        assert isinstance(task.header, TrainTask)
        delta, bound, within = clip(self.plan, task.header, delta, sites=sites)
        if self.masking is not None:
            return self._masked_update(self.masking, task, header, delta, counts)
        if self._is_noised:
            untold = {"num_examples": 0, "train_loss": 0.0, "seconds": 0.0, "train_seconds": 0.0, "incoming_loss": None}
            header = header.model_copy(update=untold | {"was_within": within})
        leaves = Message(header=header, vector=delta, counts={"validation": counts} if self._counts_leave else {})
        return update_message(self.plan, leaves, bound=bound)

    def _masked_update(self, masking: Masking, task: Message, header: Update, delta: Vector, counts: Counts) -> Message:
        vector = encode_update(self.plan, masking.terms, delta, header.num_examples)
        sums = round_sums(counts, header) if self._counts_leave else _NO_SUMS
        statement = masking.cover(task, vector, sums)
        return Message(
            header=MaskedUpdate(
                plan_digest=header.plan_digest,
                round=header.round,
                attempt=header.attempt,
                site=header.site,
                seconds=0.0 if self._is_noised else header.seconds,
                train_seconds=0.0 if self._is_noised else header.train_seconds,
            ),
            masked=vector,
            sums=sums,
            statement=statement,
            counts={"validation": counts} if self._shows_own else {},
        )

    def _without_small_groups(self, counts: Counts) -> Counts:
        """Return counts that travel alone without groups of which this site has too few people."""
        if not isinstance(counts, ClassificationCounts) or counts.decisions is None:
            return counts
        return replace(counts, decisions=without_small_groups(counts.decisions, self.plan.evaluation.minimum_group))

    def _evaluated(
        self, task: Message, asked: EvaluateTask, header: Evaluated, counts: Mapping[str, Counts]
    ) -> Message:
        seconds = 0.0 if self._is_noised else header.seconds
        alone = {name: self._without_small_groups(found) for name, found in counts.items()}
        if self.masking is None or not self._counts_leave:
            header = header.model_copy(update={"seconds": seconds})
            return Message(header=header, counts=alone if self._counts_leave else {})
        sums = evaluation_sums(self.plan, counts)
        masked = MaskedEvaluated(
            plan_digest=header.plan_digest,
            round=asked.round,
            attempt=asked.attempt,
            site=header.site,
            seconds=seconds,
        )
        covered = _cover_sums(self.masking, task, masked, sums)
        return replace(covered, counts=alone if self._shows_own else {})

    def _explained(self, task: Message, asked: ExplainTask, header: Explained, sums: Sums) -> Message:
        """Let sums of attributions out, but of no class with fewer examples than the plan's minimum."""
        explain, classes = self.plan.evaluation.explain, len(scores_of(self.plan.data))
        if explain is None or self._is_noised:
            raise ReleaseRefused("The plan lets no attributions out; nothing left this site.")
        try:
            found = Importance.from_sums(
                sums, classes=classes, groups=num_groups(self.plan.data), most=explain.examples
            )
        except MessageError as error:
            raise ReleaseRefused(f"{error.message} Nothing left this site.") from None
        sums = found.suppressed(explain.minimum_examples).to_sums()
        if self.masking is None:
            return Message(header=header, sums=sums)
        masked = MaskedExplained(
            plan_digest=header.plan_digest,
            round=asked.round,
            attempt=asked.attempt,
            site=header.site,
            seconds=header.seconds,
        )
        return _cover_sums(self.masking, task, masked, sums)

    def _statistics(self, task: Message, asked: StatisticsTask, header: Statistics, sums: Sums) -> Message:
        """Let out statistics of the features, which only a plan with preprocessing asks for."""
        preprocessing = self.plan.preprocessing
        if not preprocessing.needs_statistics or self._is_noised:
            raise ReleaseRefused("The plan lets no statistics of the features out; nothing left this site.")
        if len(sums) != num_words(preprocessing, self.plan.data):
            raise ReleaseRefused("The statistics are not those that the plan asks for; nothing left this site.")
        if self.masking is None:
            return Message(header=header, sums=sums)
        masked = MaskedEvaluated(
            plan_digest=header.plan_digest,
            round=asked.round,
            attempt=asked.attempt,
            site=header.site,
            seconds=header.seconds,
        )
        return _cover_sums(self.masking, task, masked, sums)


def _cover_sums(masking: Masking, task: Message, header: MaskedEvaluated | MaskedExplained, sums: Sums) -> Message:
    """Return a reply with sums alone under masks, without an update."""
    statement = masking.cover(task, np.zeros(0, masking.terms.dtype), sums)
    return Message(header=header, sums=sums, statement=statement)
