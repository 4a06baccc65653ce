"""The only way out of a site: what training gave becomes an update here, or does not leave.

Only ``hansa_client.session`` imports this module, and no other module sees both a trained delta and the message that
carries it away (an architecture test holds both).
"""

from dataclasses import dataclass

from hansa_common.errors import ReleaseRefused
from hansa_common.messages import Envelope, Message, Update, encode
from hansa_common.metrics import ClassificationCounts
from hansa_common.parameters import Vector, is_finite


@dataclass(slots=True)
class Release:
    """What a site lets out, and how much it was.

    Attributes:
        parameters: ``P``, the length an update must have.
        max_bytes: Largest reply this site sends.
        bytes_released: Sum over all updates that left since this object was made.
    """

    parameters: int
    max_bytes: int
    bytes_released: int = 0

    def update(self, header: Update, delta: Vector, counts: ClassificationCounts) -> Envelope:
        """Check a trained delta and hand over the bytes that may leave.

        Args:
            header: Which study, round and site it belongs to.
            delta: ``float32 [P]``.
            counts: Of the incoming model on the validation split.

        Raises:
            ReleaseRefused: The delta is not float32 ``[P]``, holds NaN or infinity, or the reply is too large.
        """
        if delta.dtype != "float32" or delta.shape != (self.parameters,):
            raise ReleaseRefused(
                f"The update is {delta.dtype} {list(delta.shape)}; the plan's model has float32 [{self.parameters}].",
                advice="The training procedure returned the wrong tensors; nothing left this site.",
            )
        if not is_finite(delta):
            raise ReleaseRefused(
                "The update holds NaN or infinity.",
                advice="Training diverged: lower training.learning_rate or set training.gradient_clip; nothing left.",
            )
        envelope = encode(Message(header=header, vector=delta, counts={"validation": counts}))
        if envelope.num_bytes > self.max_bytes:
            raise ReleaseRefused(
                f"The reply is {envelope.num_bytes:,} bytes; this site sends at most {self.max_bytes:,}.",
                advice="Raise the site's limit or use a smaller model; nothing left.",
            )
        self.bytes_released += envelope.num_bytes
        return envelope
