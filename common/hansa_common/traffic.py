"""How many bytes a site's vectors have in a round: from the plan and the size of its model, before anybody trains.

Headers and counts come on top, and what secure aggregation says beside an update; a report has what was measured.
"""

from dataclasses import dataclass
from typing import Final

from hansa_common.codecs import packed_size
from hansa_common.plan import StudyPlan

_UNITS: Final = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTraffic:
    """Of one site in one round.

    Attributes:
        up: Bytes of its update; with ``topk`` the most that there can be.
        down: Bytes of the model, and of what is carried beside it.
        is_compressed: Zstandard makes fewer of both.
    """

    up: int
    down: int
    is_compressed: bool

    def __str__(self) -> str:
        compressed = ", before Zstandard" if self.is_compressed else ""
        return f"a site receives {_written(self.down)} and sends {_written(self.up)} in a round{compressed}"


def round_traffic(plan: StudyPlan, parameters: int) -> RoundTraffic:
    """Return what one site moves in a round.

    Args:
        plan: The study.
        parameters: ``P``, how many values of the model travel.
    """
    transport, masked, values = plan.transport, plan.privacy.secure_aggregation, plan.update_size(parameters)
    return RoundTraffic(
        up=masked.ring_bits // 8 * values
        if masked is not None
        else packed_size(transport.codec, values, fraction=transport.sent_fraction),
        down=packed_size(transport.down, plan.carried * parameters),
        is_compressed=transport.compress == "zstd",
    )


def _written(num_bytes: int) -> str:
    """Write a size in decimal units, three digits."""
    for unit, factor in _UNITS:
        if num_bytes >= factor:
            return f"{num_bytes / factor:.3g} {unit}"
    return f"{num_bytes} B"
