"""One thing that a study noticed about itself: ``notices`` finds it, and ``metrics.json`` keeps it."""

from typing import Literal

from hansa_common.settings import Strict


class Notice(Strict):
    """A figure that does not fit a choice, and the choice that helps."""

    kind: Literal[
        "scaffold_partial",
        "topk_partial",
        "fednova_quantity",
        "batch_norm_skew",
        "label_skew",
        "diverging_site",
        "stalled",
    ]
    round: int
    """When it first appeared; 0 is before the first round."""
    site: str | None = None
    """Whom it is about, where it is about one site."""
    figure: float
    """What shows it; the text says which figure it is."""
    text: str
    advice: str
    """The choice that helps."""
