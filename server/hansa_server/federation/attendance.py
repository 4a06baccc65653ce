"""What an operator sees of the sites: who is there, since when, and what each did last."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, select, update

from hansa_common.roster import SignedBinding
from hansa_server.federation.database import certificates, sites, transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRow:
    """One site as the coordinator knows it; times are Unix times in seconds."""

    name: str
    status: str
    organisation: str
    fingerprint: str
    online_since: float | None
    last_seen: float | None
    last_round: str
    certificate_until: float | None


class Attendance:
    """Notes about the sites; nothing is decided by them.

    Args:
        engine: The database.
        clock: Unix time in seconds.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock
        self._last: dict[str, tuple[str, float]] = {}  # site -> its last task and when; written when it goes

    def sites(self) -> tuple[SiteRow, ...]:
        """Return all sites in ascending name."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(sites).order_by(sites.c.name)).all()
            issued = connection.execute(select(certificates).where(certificates.c.revoked == 0)).all()
        until = {row.site: row.expires for row in sorted(issued, key=lambda row: row.expires)}
        return tuple(_site_row(row, until.get(row.name), self._last.get(row.name)) for row in rows)

    def mark_online(self, site: str) -> None:
        """Note that a site has a session."""
        self._mark(site, online_since=self._clock(), last_seen=self._clock())

    def mark_offline(self, site: str) -> None:
        """Note that it has none."""
        task, _when = self._last.pop(site, ("", 0.0))
        values = {"last_round": task} if task else {}
        self._mark(site, online_since=None, last_seen=self._clock(), **values)

    def mark_round(self, site: str, task: str) -> None:
        """Note the last task that a site replied to."""
        self._last[site] = (task, self._clock())

    def all_offline(self) -> None:
        """Forget the sessions of a server that is gone."""
        with transaction(self._engine) as connection:
            connection.execute(update(sites).values(online_since=None))

    def _mark(self, site: str, **values: object) -> None:
        with transaction(self._engine) as connection:
            connection.execute(update(sites).where(sites.c.name == site).values(values))


def _site_row(row: Any, until: float | None, last: tuple[str, float] | None) -> SiteRow:
    binding = SignedBinding.model_validate_json(row.binding).binding
    return SiteRow(
        name=row.name,
        status=row.status,
        organisation=binding.organisation.name,
        fingerprint=binding.fingerprint(),
        online_since=row.online_since,
        last_seen=last[1] if last else row.last_seen,
        last_round=last[0] if last else row.last_round,
        certificate_until=until,
    )
