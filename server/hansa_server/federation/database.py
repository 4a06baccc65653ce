"""The coordinator's database: SQLite, written ahead and synced in full, through SQLAlchemy.

Evolution: ``_VERSION`` counts up when a table changes; an older database is brought up to it, a newer one is refused.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    text,
)
from sqlalchemy.exc import DatabaseError

from hansa_common.errors import StorageError

_VERSION: Final = 2
_BUSY: Final = 5_000  # milliseconds to wait for another process that writes
_ADVICE: Final = "Free space or mend the disk; nothing half-written is left."

metadata = MetaData()

invitations = Table(
    "invitations",
    metadata,
    Column("id", String, primary_key=True),
    Column("site", String, nullable=False),
    Column("secret", String, nullable=False),
    Column("roster", String, nullable=False),  # digest of the version that the invitation names
    Column("expires", Float, nullable=False),  # Unix time in seconds
    Column("used_by", String),  # digest of the binding that used it
)

sites = Table(
    "sites",
    metadata,
    Column("name", String, primary_key=True),
    Column("status", String, nullable=False),  # applicant, member, revoked, frozen, left
    Column("binding", String, nullable=False),  # SignedBinding as JSON
    Column("counter", Integer, nullable=False, default=0),
    Column("online_since", Float),  # Unix time in seconds; null while the site has no session
    Column("last_seen", Float),
    Column("last_round", String, nullable=False, default=""),
)

certificates = Table(
    "certificates",
    metadata,
    Column("serial", String, primary_key=True),  # hexadecimal digits
    Column("site", String, nullable=False),
    Column("expires", Float, nullable=False),  # Unix time in seconds
    Column("revoked", Integer, nullable=False, default=0),
    Column("authority", String, nullable=False, default="", server_default=""),  # its pin; empty: the first one's
)

rosters = Table(
    "rosters",
    metadata,
    Column("version", Integer, primary_key=True),
    Column("signed", String, nullable=False),  # SignedRoster as JSON
)


def open_database(path: Path) -> Engine:
    """Open the database, making it where it is not there.

    Raises:
        StorageError: The disk fails, or a newer version of Hansa wrote it.
    """
    engine = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions are begun below, at once with the right to write
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY}"):
            connection.execute(f"PRAGMA {pragma}")

    with _storage(path), engine.connect() as connection:
        found = connection.execute(text("PRAGMA user_version")).scalar_one()
        if found > _VERSION:
            raise StorageError(
                f"{path} was written by a newer Hansa (version {found}, known is {_VERSION}).",
                advice="Install that version again, or restore the backup from before the upgrade.",
            )
        metadata.create_all(connection)
        if found == 1:
            connection.execute(text("ALTER TABLE certificates ADD COLUMN authority VARCHAR NOT NULL DEFAULT ''"))
        connection.execute(text(f"PRAGMA user_version={_VERSION}"))
        connection.commit()
    path.chmod(0o600)
    return engine


@contextlib.contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Write: all of it, durably, or nothing.

    Raises:
        StorageError: The disk is full or fails; nothing is written.
    """
    with _storage(Path(engine.url.database or "")), engine.connect() as connection:
        connection.execute(text("BEGIN IMMEDIATE"))
        try:
            yield connection
            connection.execute(text("COMMIT"))
        except BaseException:
            with contextlib.suppress(DatabaseError):
                connection.execute(text("ROLLBACK"))
            raise


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        raise StorageError(f"Cannot write {path}: {error.orig}.", advice=_ADVICE) from error
