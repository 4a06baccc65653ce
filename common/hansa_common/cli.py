"""The ``hansa`` command: finds its sub-commands in the installed packages, so it shows what this machine can do."""

import sys
from importlib.metadata import entry_points
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from hansa_common import __version__
from hansa_common.errors import HansaError


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"hansa {__version__}")
        raise typer.Exit


def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Federated learning for institutions that want one better model and will not show each other their data."""
    del version


def build() -> typer.Typer:
    """Return the command with all installed sub-commands."""
    command = typer.Typer(
        name="hansa",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    command.callback()(_root)
    for entry in sorted(entry_points(group="hansa.commands"), key=lambda entry: entry.name):
        loaded = entry.load()
        if isinstance(loaded, typer.Typer):
            command.add_typer(loaded, name=entry.name)
        else:
            command.command(entry.name)(loaded)
    return command


def main() -> None:
    """Run the command; 0: done, 1: the work failed, 2: wrong usage."""
    try:
        build()()
    except HansaError as error:
        console = Console(stderr=True)
        console.print(Text.assemble(("Error: ", "bold red"), error.message), soft_wrap=True)
        if error.advice:
            console.print(Text(error.advice), soft_wrap=True)
        sys.exit(error.exit_code)
