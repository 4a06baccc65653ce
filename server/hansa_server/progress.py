"""Shows a study as it goes: a live display on a terminal, plain lines elsewhere, nothing when asked to be quiet."""

import time
from collections.abc import Mapping
from functools import partial

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hansa_common.messages import Opened
from hansa_server.figures import NAMES
from hansa_server.figures import write as write_figure
from hansa_server.notice import Notice
from hansa_server.results import RoundResult

_MOST_SITES = 12  # rows of the live table
_LARGEST = 100  # of a unit of time, before the next larger one is easier to read


class Quiet:
    """Shows nothing."""

    def opened(self, sites: Mapping[str, Opened], failed: Mapping[str, str]) -> None:
        """See ``study.Observer``."""

    def round_started(self, number: int, sites: tuple[str, ...]) -> None:
        """See ``study.Observer``."""

    def site_done(self, site: str, problem: str) -> None:
        """See ``study.Observer``."""

    def round_closed(self, result: RoundResult) -> None:
        """See ``study.Observer``."""

    def noticed(self, notice: Notice) -> None:
        """See ``study.Observer``."""

    def stage(self, name: str) -> None:
        """See ``study.Observer``."""

    def close(self) -> None:
        """Stop showing."""


class Plain(Quiet):
    """One line for each thing that happens, for logs."""

    def __init__(self, console: Console, rounds: int, done: int = 0) -> None:
        self._console = console
        self._clock = _Clock(rounds, done)

    def opened(self, sites: Mapping[str, Opened], failed: Mapping[str, str]) -> None:
        """Say who takes part."""
        examples = _examples(sites)
        known = f", {examples:,} training examples in all" if examples is not None else ""
        self._say(f"{len(sites)} {'site' if len(sites) == 1 else 'sites'} opened the study{known}")
        for site, problem in sorted(failed.items()):
            self._say(f"{site} could not open the study: {problem}")

    def site_done(self, site: str, problem: str) -> None:
        """Say so when something went wrong."""
        if problem:
            self._say(f"{site} is missing from this round: {problem}")

    def round_closed(self, result: RoundResult) -> None:
        """Say what the round brought."""
        self._clock.tick()
        self._say(
            f"round {result.round}/{self._clock.rounds}  {len(result.sites)} sites  {_figures(result)}  "
            f"{result.seconds:.1f} s  {self._clock.left()}"
        )

    def noticed(self, notice: Notice) -> None:
        """Say it, and what helps."""
        self._say(f"notice: {notice.text} {notice.advice}")

    def stage(self, name: str) -> None:
        """Name it."""
        self._say(name)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Display(Quiet):
    """A live display: rounds, figures, sites and time left."""

    def __init__(self, console: Console, rounds: int, done: int = 0) -> None:
        self._console = console
        self._clock = _Clock(rounds, done)
        self._stage = "starting"
        self._status: dict[str, str] = {}
        self._last: RoundResult | None = None
        self._live = Live(self, console=console, refresh_per_second=8, transient=True)
        self._live.start()

    def opened(self, sites: Mapping[str, Opened], failed: Mapping[str, str]) -> None:
        """Say who takes part."""
        examples = _examples(sites)
        known = f", [bold]{examples:,}[/] training examples in all" if examples is not None else ""
        self._print(f"[bold]{len(sites)}[/] sites{known}")
        for site, problem in sorted(failed.items()):
            self._print(f"[yellow]{escape(site)}[/] could not open the study: {escape(problem)}")

    def round_started(self, number: int, sites: tuple[str, ...]) -> None:
        """Show the cohort as working."""
        self._stage = f"round {number} of {self._clock.rounds}"
        self._status = dict.fromkeys(sites, "working")

    def site_done(self, site: str, problem: str) -> None:
        """Show a site as done."""
        self._status[site] = "missing" if problem else "done"
        if problem:
            self._print(f"[yellow]{escape(site)}[/] is missing from {self._stage}: {escape(problem)}")

    def round_closed(self, result: RoundResult) -> None:
        """Show what the round brought."""
        self._clock.tick()
        self._last = result

    def noticed(self, notice: Notice) -> None:
        """Leave a line above the display: it must not scroll away with the figures."""
        self._print(f"[yellow]notice[/] {escape(notice.text)} [dim]{escape(notice.advice)}[/]")

    def stage(self, name: str) -> None:
        """Show what goes on outside the rounds."""
        self._stage, self._status = name, {}

    def close(self) -> None:
        """Give the terminal back, leaving the last line of figures."""
        self._live.stop()
        if self._last is not None:
            line = f"round {self._last.round} of {self._clock.rounds}: {_figures(self._last)}"
            self._console.print(line, markup=False, highlight=False)
            self._last = None  # closing twice says it once

    def __rich__(self) -> Group:
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(self._stage, style="bold"),
            ProgressBar(total=self._clock.rounds, completed=self._clock.done, width=30),
            Text(self._clock.left(), style="dim"),
        )
        lines: list[Table | Text] = [head]
        if self._last is not None:
            lines.append(Text(_figures(self._last)))
        if self._status:
            lines.append(self._sites())
        return Group(*lines)

    def _sites(self) -> Table | Text:
        """One line for each site, or a sum where they are many."""
        if len(self._status) > _MOST_SITES:
            states = list(self._status.values())
            parts = [f"{states.count(state)} {state}" for state in ("done", "working", "missing") if state in states]
            return Text(", ".join(parts))
        before = {site.site: site for site in self._last.sites} if self._last else {}
        table = Table.grid(padding=(0, 2))
        for site, state in self._status.items():
            style = {"done": "green", "working": "dim", "missing": "yellow"}[state]
            figures = before.get(site)
            accuracy = ""
            if self._last is not None and figures is not None:
                value = figures.value if figures.accuracy is None else figures.accuracy
                accuracy = "" if value is None else write_figure(self._last.incoming.figure, value)
            loss = f"loss {figures.train_loss:.4f}" if figures and figures.train_loss is not None else ""
            table.add_row(Text(site), Text(state, style=style), Text(accuracy), Text(loss))
        return table

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False)


class _Clock:
    """Estimates the time left from the rounds that this process has seen."""

    def __init__(self, rounds: int, done: int) -> None:
        self.rounds = rounds
        self.done = done
        self._before = done
        self._started = time.monotonic()

    def tick(self) -> None:
        self.done += 1

    def left(self) -> str:
        """Return the time left in words; nothing before the first round."""
        if self.done == self._before:
            return ""
        seconds = (time.monotonic() - self._started) / (self.done - self._before) * (self.rounds - self.done)
        for unit, length in (("s", 1), ("min", 60)):
            if seconds < _LARGEST * length:
                return f"{seconds / length:.0f} {unit} left"
        return f"{seconds / 3600:.1f} h left"


def _examples(sites: Mapping[str, Opened]) -> int | None:
    """Return the training examples in all; ``None`` where a site keeps its size at home."""
    sizes = [opened.train for opened in sites.values()]
    return sum(sizes) if all(sizes) else None


def _figures(result: RoundResult) -> str:
    """The round's figures, as far as there are: training loss now, validation of the model it started from."""
    incoming = result.incoming
    parts = [f"train loss {result.train_loss:.4f}"] if result.train_loss is not None else []
    if incoming.overall_value is not None:
        name, write = NAMES[incoming.figure], partial(write_figure, incoming.figure)
        parts.append(f"validation of model {result.round - 1}: {name} {write(incoming.overall_value)}")
        if incoming.worst_site is not None and incoming.worst_value is not None:
            parts.append(f"worst {incoming.worst_site} {write(incoming.worst_value)}")
    if result.void_attempts:
        parts.append(
            f"repeated {len(result.void_attempts)} times" if len(result.void_attempts) > 1 else "repeated once"
        )
    return "  ".join(parts) or "no figures leave the sites"
