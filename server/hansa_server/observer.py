"""Who watches a study: a progress display, a log, or nobody."""

from collections.abc import Mapping
from typing import Protocol

from hansa_common.messages import Opened
from hansa_server.notice import Notice
from hansa_server.results import RoundResult


class Observer(Protocol):
    """Who watches: a progress display, or nobody."""

    def opened(self, sites: Mapping[str, Opened], failed: Mapping[str, str]) -> None:
        """Say that the opening exchange is over."""

    def round_started(self, number: int, sites: tuple[str, ...]) -> None:
        """Say that a round began."""

    def site_done(self, site: str, problem: str) -> None:
        """Say that a site has answered; ``problem`` is empty where all is well."""

    def round_closed(self, result: RoundResult) -> None:
        """Say that a round counts."""

    def noticed(self, notice: Notice) -> None:
        """Say what the study noticed about itself, when it first appears."""

    def stage(self, name: str) -> None:
        """Say that a stage outside the rounds began."""
