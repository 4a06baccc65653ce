"""From a closed round to its entry in the results."""

import logging

from hansa_common.errors import MessageError
from hansa_common.messages import MaskedUpdate, Update
from hansa_common.metrics import ClassificationCounts
from hansa_common.plan import StudyPlan
from hansa_common.protection import counts_leave, read_round_sums
from hansa_server.figures import scores_of, summary, summary_of_sum
from hansa_server.masked import MaskedSum
from hansa_server.results import RoundResult, SiteRound
from hansa_server.rounds import Round

_log = logging.getLogger(__name__)


def round_result(closed: Round, *, seconds: float, bytes_up: int, bytes_down: int) -> RoundResult:
    """Return the entry of a round whose updates came one by one."""
    updates = {site: closed.accepted[site] for site in sorted(closed.accepted)}
    headers = [accepted.header for accepted in updates.values()]
    total = sum(header.num_examples for header in headers)
    incoming = summary({site: accepted.counts for site, accepted in updates.items() if accepted.counts is not None})
    if not total:  # noised counts hold no losses
        incoming = incoming.model_copy(update={"weighted_mean_loss": None})
    return RoundResult(
        round=closed.number,
        seconds=seconds,
        incoming=incoming,
        train_loss=sum(header.train_loss * header.num_examples for header in headers) / total if total else None,
        sites=tuple(
            _site_round(site, accepted.header, accepted.counts, norm=accepted.norm)
            for site, accepted in updates.items()
        ),
        missing=dict(sorted(closed.missing.items())),
        bytes_up=bytes_up,
        bytes_down=bytes_down,
    )


def masked_result(
    plan: StudyPlan, number: int, total: MaskedSum, *, seconds: float, bytes_up: int, bytes_down: int
) -> RoundResult:
    """Return the entry of a round whose updates came masked: what the sites have in common, and what some let out."""
    incoming, loss = summary({}), None
    if counts_leave(plan.privacy):
        try:
            counts, loss = read_round_sums(total.sums, len(plan.data.classes))
        except MessageError as error:
            _log.warning("The sites' counts add up to nothing possible; one of them lied: %s", error)
            counts = ClassificationCounts.zero(len(plan.data.classes), histograms=False)
        shown = {site: counts["validation"] for site, counts in total.shown.items() if "validation" in counts}
        incoming = summary(shown) if len(shown) == len(total.survivors) else summary_of_sum(counts)
    if plan.privacy.differential is not None:  # noised counts hold no losses
        incoming = incoming.model_copy(update={"weighted_mean_loss": None})
    sites = tuple(
        _site_round(site, header, total.shown.get(site, {}).get("validation"))
        for site, header in total.headers.items()
        if isinstance(header, MaskedUpdate)
    )
    return RoundResult(
        round=number,
        seconds=seconds,
        incoming=incoming,
        train_loss=loss,
        sites=sites,
        missing=dict(sorted(total.missing.items())),
        void_attempts=total.void,
        bytes_up=bytes_up,
        bytes_down=bytes_down,
    )


def _site_round(
    site: str, header: Update | MaskedUpdate, counts: ClassificationCounts | None, *, norm: float | None = None
) -> SiteRound:
    figures = scores_of(counts) if counts is not None else None
    told = isinstance(header, Update) and header.num_examples > 0
    masked = isinstance(header, MaskedUpdate)
    return SiteRound(
        site=site,
        num_examples=header.num_examples if isinstance(header, Update) and told else None,
        train_loss=header.train_loss if isinstance(header, Update) and told else None,
        accuracy=figures.accuracy if figures else None,
        loss=figures.loss if figures and (told or masked) else None,
        seconds=header.seconds,
        train_seconds=header.train_seconds,
        update_norm=norm,
    )
