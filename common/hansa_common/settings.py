"""TOML -> frozen models; an unknown key is an error that names the key's path, what was found and what is allowed."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from hansa_common.errors import SettingsError
from hansa_common.registry import suggest


class Strict(BaseModel):
    """A frozen value that refuses unknown keys and never converts one type into another."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path, *, max_bytes: int = 1_000_000) -> dict[str, Any]:
    """Parse a TOML file of at most ``max_bytes`` bytes.

    Raises:
        SettingsError: The file is missing, too large, not UTF-8 or not TOML; the message gives line and column.
    """
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise SettingsError(f"{path} is larger than {max_bytes:,} bytes.", advice="A settings file is small text.")
        return tomllib.loads(content.decode())
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.", advice="Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}.", advice="Mend the line it names.") from error


def parse(
    model: type[Model], values: Mapping[str, Any], *, origin: str = "", error: type[SettingsError] = SettingsError
) -> Model:
    """Turn parsed TOML into a frozen model.

    Args:
        model: The type to build.
        values: Parsed TOML. Lists become tuples where the model wants tuples.
        origin: A file name or option, put in front of the message.
        error: The class to raise.

    Raises:
        SettingsError: One line for each key that is wrong: its path, what was found, what is allowed.
    """
    try:
        return model.model_validate(_tuples(values))
    except ValidationError as failure:
        details = failure.errors(include_url=False)
        lines = [_explain(model, detail) for detail in details]
        prefix = f"{origin}: " if origin else ""
        raise error(prefix + "\n".join(lines), path=_path(details[0])) from None


def _tuples(value: Any) -> Any:
    """TOML has lists only; frozen models hold tuples."""
    if isinstance(value, Mapping):
        return {key: _tuples(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_tuples(inner) for inner in value)
    return value


def _path(detail: ErrorDetails) -> str:
    """``('data', 'table', 'columns', 3, 'type')`` -> ``data.columns[3].type`` (a union's tag is no key)."""
    path = ""
    tags = {"image", "table", "array"} if len(detail["loc"]) > 1 and detail["loc"][0] == "data" else set()
    for index, part in enumerate(detail["loc"]):
        if isinstance(part, int):
            path += f"[{part}]"
        elif not (index == 1 and part in tags):
            path += f".{part}" if path else str(part)
    return path or "(top level)"


def _explain(model: type[BaseModel], detail: ErrorDetails) -> str:
    path, kind = _path(detail), detail["type"]
    if kind == "extra_forbidden":
        return f"{path}: unknown key. {suggest(path.rsplit('.', 1)[-1], _siblings(model, detail['loc']))}"
    if kind == "missing":
        return f"{path}: this key is required and missing."
    if kind == "value_error":
        return _locate(path if detail["loc"] else "", str(detail["ctx"]["error"]))
    if kind == "union_tag_invalid":
        return f"{path}.{detail['ctx']['discriminator'].strip(chr(39))}: found '{detail['ctx']['tag']}'; " + (
            f"allowed is one of {detail['ctx']['expected_tags']}."
        )
    if kind == "union_tag_not_found":
        return f"{path}.{detail['ctx']['discriminator'].strip(chr(39))}: this key is required and missing."
    message = detail["msg"].replace("Input should be", "allowed is").replace("tuple", "list")
    return f"{path}: found {detail['input']!r}; {message}."


def _locate(path: str, message: str) -> str:
    """Put a validator's message behind its path; a message that opens with a key of its own (``steps: ...``) joins it."""
    if not path:
        return message
    return f"{path}.{message}" if re.match(r"[a-z_]+(\.[a-z_]+)*: ", message) else f"{path}: {message}"


def _siblings(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are allowed where an unknown one was found."""
    found: list[type[BaseModel]] = [model]
    for part in location[:-1]:
        deeper = [inner for candidate in found for inner in _inner_models(candidate, part)]
        found = deeper or found
    return sorted({name for candidate in found for name in candidate.model_fields})


def _inner_models(model: type[BaseModel], part: int | str) -> list[type[BaseModel]]:
    field = model.model_fields.get(str(part))
    if field is None:
        return []
    pending, models = [field.annotation], []
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            models.append(annotation)
        pending.extend(getattr(annotation, "__args__", ()))
    return models
