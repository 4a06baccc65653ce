"""Any other Flower app on engine ``local``: its ServerApp here, its ClientApp in the worker processes."""

import shlex
import tomllib
from pathlib import Path

from flwr.app import Context, RecordDict
from flwr.app.user_config import UserConfig, UserConfigValue
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.server_app import LoadServerAppError
from flwr.supercore.object_ref import load_app

from hansa_common.errors import UsageError
from hansa_common.settings import read_toml
from hansa_server.engines.local import LocalGrid


def run_flower_app(references: str, *, nodes: int, workers: int | None = None, run_config: str | None = None) -> None:
    """Run a Flower app that knows nothing of Hansa; it has no checkpoint, no resume and no report.

    Args:
        references: ``package.server:app,package.client:app``, importable or in the current folder.
        nodes: How many nodes to simulate.
        workers: How many worker processes; one for each core where it is ``None``.
        run_config: ``key=value key=value``; wins over ``[tool.flwr.app.config]`` of the folder's pyproject.toml.

    Raises:
        UsageError: A reference or the run configuration cannot be read.
    """
    server_reference, separator, client_reference = references.partition(",")
    if not separator or ":" not in server_reference or ":" not in client_reference:
        raise UsageError(f"--app: found '{references}'.", advice="Allowed is package.server:app,package.client:app.")
    folder = Path.cwd()
    config = _folder_config(folder) | parse_run_config(run_config or "")
    app = load_server_app(server_reference, folder)
    grid = LocalGrid(client_app=client_reference, nodes=nodes, workers=workers, run_config=config, folder=folder)
    run_on(grid, app, config)


def load_server_app(reference: str, folder: Path) -> ServerApp:
    """Return an installed ServerApp, or one in ``folder``.

    Raises:
        UsageError: There is none of that name.
    """
    try:
        app = load_app(reference, LoadServerAppError, folder)
    except (LoadServerAppError, ImportError) as error:
        raise UsageError(f"--app: {reference} cannot be loaded: {error}") from error
    if not isinstance(app, ServerApp):
        raise UsageError(f"--app: {reference} is a {type(app).__name__}, not a ServerApp.")
    return app


def run_server_app(app: ServerApp, grid: Grid, run_config: UserConfig) -> None:
    """Run a ServerApp on any Grid to its end."""
    app(grid=grid, context=Context(grid.run.run_id, 0, {}, RecordDict(), run_config))


def run_on(grid: LocalGrid, app: ServerApp, run_config: UserConfig | None = None) -> None:
    """Run a ServerApp on engine ``local`` to its end."""
    try:
        grid.start()
        run_server_app(app, grid, run_config or {})
    finally:
        grid.close()


def parse_run_config(text: str) -> UserConfig:
    """Read ``key=value key='two words'`` with TOML values; a bare word is a string.

    Raises:
        UsageError: A pair has no ``=``, or its value is none of bool, int, float and string.
    """
    config: UserConfig = {}
    for pair in shlex.split(text, posix=False):
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise UsageError(f"--run-config: found '{pair}'.", advice="Allowed is key=value, separated by spaces.")
        config[key] = _value(value)
    return config


def _value(text: str) -> UserConfigValue:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    if isinstance(value, bool | int | float | str):
        return value
    raise UsageError(f"--run-config: found {text}.", advice="Allowed is a bool, a number or a string.")


def _folder_config(folder: Path) -> UserConfig:
    """Return the configuration that the app's own pyproject.toml gives."""
    path = folder / "pyproject.toml"
    if not path.is_file():
        return {}
    table = read_toml(path).get("tool", {}).get("flwr", {}).get("app", {}).get("config", {})
    return _flatten(table)


def _flatten(table: dict[str, object], prefix: str = "") -> UserConfig:
    """Nested tables become dotted keys, as Flower reads them."""
    config: UserConfig = {}
    for key, value in table.items():
        if isinstance(value, dict):
            config |= _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, bool | int | float | str):
            config[prefix + key] = value
    return config
