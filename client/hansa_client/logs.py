"""The agent's log: one line of JSON an event, whoever says it."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

import structlog

from hansa_common.files import LogFile


def configure(path: Path) -> None:
    """Structured lines of ids and decisions; what this site refused and why stands in full, for it stays here."""
    handler = logging.FileHandler(path)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=LogFile(path)),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )


class _JsonLines(logging.Formatter):
    """What modules without structlog say, in the form of the other lines."""

    def format(self, record: logging.LogRecord) -> str:
        values = {"event": record.getMessage(), "level": record.levelname.lower(), "logger": record.name}
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        return json.dumps(values | {"timestamp": datetime.now(UTC).isoformat()}, ensure_ascii=False)
