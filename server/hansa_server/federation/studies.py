"""Life of a study at the coordinator: proposed, running, then completed, stopped or failed; who approved it.

A study starts when every site that its plan names has answered, or the time for answers is over, and enough of them
approved exactly this plan. A site that refused, or was silent, has no part in it.
"""

import json
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

from sqlalchemy import Column, Connection, Engine, Float, Integer, String, Table, select, update
from sqlalchemy.dialects.sqlite import insert

from hansa_common.app_plan import AppPlan, read_any
from hansa_common.errors import PeerRefused, UsageError
from hansa_common.plan import StudyPlan, plan_from_json
from hansa_common.wire.protocol import DecideRequest, Denial, Proposal
from hansa_server.federation.database import metadata, transaction
from hansa_server.rounds import quorum_of

State = Literal["proposed", "running", "completed", "stopped", "failed"]
ENDED: Final = ("completed", "stopped", "failed")

studies = Table(
    "studies",
    metadata,
    Column("id", String, primary_key=True),
    Column("digest", String, nullable=False),
    Column("plan", String, nullable=False),
    Column("state", String, nullable=False),
    Column("reason", String, nullable=False, default=""),
    Column("attempt", Integer, nullable=False, default=1),
    Column("proposed_at", Float, nullable=False),  # Unix time in seconds
    Column("sites", String, nullable=False),  # JSON list, in the plan's order
)

decisions = Table(
    "decisions",
    metadata,
    Column("study", String, primary_key=True),
    Column("site", String, primary_key=True),
    Column("approved", Integer, nullable=False),
    Column("signed", String, nullable=False),  # the DecideRequest as JSON
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRow:
    """One study as the coordinator knows it.

    Attributes:
        id: ``<name>-<time>``; its run folder is named so.
        digest: Of the plan that the sites approve.
        plan: As JSON.
        state: Where it stands.
        reason: Why it failed.
        attempt: Counts up each time an operator resumes it.
        proposed_at: Unix time in seconds.
        sites: Asked to take part, in the plan's order.
        approved: Those that said yes to this digest.
        refused: Those that said no.
    """

    id: str
    digest: str
    plan: str = field(repr=False)
    state: State
    reason: str
    attempt: int
    proposed_at: float
    sites: tuple[str, ...]
    approved: tuple[str, ...]
    refused: tuple[str, ...]

    @property
    def silent(self) -> tuple[str, ...]:
        """Sites that have not answered."""
        return tuple(site for site in self.sites if site not in self.approved and site not in self.refused)

    def parsed(self) -> StudyPlan | AppPlan:
        """Return the plan."""
        return read_any(self.plan)

    @property
    def needed(self) -> int:
        """How many sites must approve."""
        plan = self.parsed()
        return quorum_of(plan.rounds.quorum, len(self.sites)) if isinstance(plan, StudyPlan) else len(self.sites)


class Studies:
    """All studies of one coordinator."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def propose(self, plan: StudyPlan | AppPlan, members: Collection[str], *, now: float) -> StudyRow:
        """Enter a study; a plan that names no sites asks all members.

        Raises:
            UsageError: It names a site that is no member, or there is none.
        """
        named = _named(plan)
        if unknown := sorted(set(named) - set(members)):
            raise UsageError(
                f"No member of this federation: {', '.join(unknown)}.",
                advice=f"Members are: {', '.join(sorted(members)) or 'none yet'}.",
            )
        sites = tuple(named) or tuple(sorted(members))
        if not sites:
            raise UsageError("This federation has no members yet.", advice="Invite one: hansa server invite SITE.")
        if isinstance(plan, StudyPlan):
            values = json.loads(plan.approved().model_dump_json())
            plan = plan_from_json(json.dumps(values | {"federation": {"sites": list(sites)}}))
        else:
            plan = plan.model_copy(update={"sites": sites})
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%d-%H%M%S-%f")[:-3]
        row = {
            "id": f"{plan.name}-{stamp}",
            "digest": plan.digest(),
            "plan": plan.model_dump_json(),
            "state": "proposed",
            "attempt": 1,
            "proposed_at": now,
            "sites": json.dumps(sites),
        }
        with transaction(self._engine) as connection:
            connection.execute(insert(studies).values(row))
        return self.find(str(row["id"]))

    def find(self, study: str) -> StudyRow:
        """Return one study, by its id or by the name of its plan (then the last one proposed).

        Raises:
            UsageError: There is none.
        """
        rows = self.all()
        for row in reversed(rows):
            if study in (row.id, row.parsed().name):
                return row
        raise UsageError(
            f"There is no study '{study}'.", advice=f"There are: {', '.join(row.id for row in rows) or 'none'}."
        )

    def all(self) -> list[StudyRow]:
        """Return all studies, the oldest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(studies).order_by(studies.c.proposed_at)).all()
            answers = connection.execute(select(decisions)).all()
        return [
            StudyRow(
                id=row.id,
                digest=row.digest,
                plan=row.plan,
                state=row.state,
                reason=row.reason,
                attempt=row.attempt,
                proposed_at=row.proposed_at,
                sites=tuple(json.loads(row.sites)),
                approved=tuple(sorted(a.site for a in answers if a.study == row.id and a.approved)),
                refused=tuple(sorted(a.site for a in answers if a.study == row.id and not a.approved)),
            )
            for row in rows
        ]

    def proposals_for(self, site: str) -> list[Proposal]:
        """Return the studies that this site is asked about and that are not over."""
        return [proposal_of(row) for row in self.all() if site in row.sites and row.state not in ENDED]

    def decide(self, request: DecideRequest, *, site: str, key: str, federation: str) -> StudyRow:
        """Take in a site's signed answer; the last one counts, and the same one again changes nothing.

        Raises:
            PeerRefused: It is another site's, another plan's, not signed by this site, or older than the last one.
        """
        decision = request.decision
        request.verify(key)
        try:
            row = self.find(decision.study)
        except UsageError:
            raise PeerRefused("There is no such study.", denial=Denial.NO_TASK) from None
        if (decision.site, decision.federation, decision.digest) != (site, federation, row.digest):
            raise PeerRefused("The answer is of another site, or about another plan.", denial=Denial.FORBIDDEN)
        if site not in row.sites:
            raise PeerRefused("The study does not ask this site.", denial=Denial.FORBIDDEN)
        values = {"study": row.id, "site": site, "approved": decision.approved, "signed": request.model_dump_json()}
        with transaction(self._engine) as connection:
            _check_newer(connection, request)
            connection.execute(
                insert(decisions).values(values).on_conflict_do_update(index_elements=["study", "site"], set_=values)
            )
        return self.find(row.id)

    def set_state(self, study: str, state: State, reason: str = "") -> StudyRow:
        """Note where a study stands."""
        with transaction(self._engine) as connection:
            connection.execute(update(studies).where(studies.c.id == study).values(state=state, reason=reason))
        return self.find(study)

    def next_attempt(self, study: str) -> StudyRow:
        """Resume a study that was stopped or failed: its rounds are asked anew, under another attempt.

        Raises:
            UsageError: It runs, or is completed.
        """
        row = self.find(study)
        if row.state not in ENDED or (row.state == "completed" and not row.reason):
            raise UsageError(f"{row.id} is {row.state}.", advice="Only one that did not get to its end can be resumed.")
        with transaction(self._engine) as connection:
            connection.execute(
                update(studies)
                .where(studies.c.id == row.id)
                .values(state="proposed", reason="", attempt=row.attempt + 1, proposed_at=time.time())
            )
        return self.find(row.id)


def _check_newer(connection: Connection, request: DecideRequest) -> None:
    """Refuse an answer that was given before the one in force: a recorded approval must not undo a refusal."""
    decision = request.decision
    mine = (decisions.c.study == decision.study) & (decisions.c.site == decision.site)
    signed = connection.execute(select(decisions.c.signed).where(mine)).scalar()
    if signed is None:
        return
    last = DecideRequest.model_validate_json(signed)
    if last != request and decision.decided_at <= last.decision.decided_at:
        raise PeerRefused(
            "A later answer of this site is in force.",
            denial=Denial.FORBIDDEN,
            advice="Answer again; an answer from a restored backup, or with a clock that was set back, is an old one.",
        )


def _named(plan: StudyPlan | AppPlan) -> tuple[str, ...]:
    """Return the sites that a plan names; none where it means all members."""
    if isinstance(plan, AppPlan):
        return plan.sites
    return plan.federation.sites if plan.federation else ()


def proposal_of(row: StudyRow) -> Proposal:
    """Return what the sites are shown."""
    return Proposal(study=row.id, plan=row.plan, digest=row.digest, proposed_at=int(row.proposed_at))
