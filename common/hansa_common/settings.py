"""TOML -> frozen models; an unknown key is an error that names the key's path, what was found and what is allowed."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

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
    values = _tuples(values)
    try:
        return model.model_validate(values)
    except ValidationError as failure:
        problems = _problems(model, values, failure.errors(include_url=False))
        prefix = f"{origin}: " if origin else ""
        raise error(prefix + "\n".join(line for _, line in problems), path=problems[0][0]) from None


def _tuples(value: Any) -> Any:
    """TOML has lists only; frozen models hold tuples."""
    if isinstance(value, Mapping):
        return {key: _tuples(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_tuples(inner) for inner in value)
    return value


def _problems(model: type[BaseModel], values: Any, details: list[ErrorDetails]) -> list[tuple[str, str]]:
    """Return ``(path, line)`` for each key that is wrong.

    A value that fits no member of a union has one error for each member; they become one line. Where an item of a list
    is wrong, what that does to the list is not worth a line.
    """
    by_path: dict[str, list[ErrorDetails]] = {}
    for detail in details:
        by_path.setdefault(_path(values, detail), []).append(detail)
    deepest = {
        path: found
        for path, found in by_path.items()
        if not any(other.startswith((f"{path}.", f"{path}[")) for other in by_path)
    }
    return [problem for path, found in deepest.items() for problem in _explain(model, path, found)]


def _path(values: Any, detail: ErrorDetails) -> str:
    """``('data', 'table', 'columns', 3, 'type')`` -> ``data.columns[3].type``; what is no key is a union's tag."""
    path, location = "", detail["loc"]
    for index, part in enumerate(location):
        missing = detail["type"] == "missing" and index == len(location) - 1
        if isinstance(values, Mapping) and isinstance(part, str) and (part in values or missing):
            key = part if re.fullmatch(r"[\w-]+", part) else repr(part)
            path = f"{path}.{key}" if path else key
            values = values.get(part)
        elif isinstance(values, tuple) and isinstance(part, int) and part < len(values):
            path += f"[{part}]"
            values = values[part]
    return path


def _explain(model: type[BaseModel], path: str, details: list[ErrorDetails]) -> list[tuple[str, str]]:
    """Return the lines about one path; all of ``details`` are about the same value."""
    detail = details[0]
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "value_error":
        return [_locate(path, line) for line in str(context["error"]).split("\n")]
    if kind.startswith("union_tag"):
        path = f"{path}.{context['discriminator'].strip(chr(39))}"
        kind = "missing" if kind == "union_tag_not_found" else kind
    if kind == "extra_forbidden":
        siblings = _siblings(model, detail["loc"])
        advice = suggest(str(detail["loc"][-1]), siblings) if siblings else "No options are allowed here."
        return [(path, f"{path}: unknown key. {advice}")]
    if kind == "missing":
        index = detail["loc"][-1]
        if isinstance(index, int):
            return [(path, f"{path}: found {_show(detail['input'])}; item {index + 1} is missing.")]
        return [(path, f"{path}: this key is required and missing.")]
    found = context["tag"] if kind == "union_tag_invalid" else detail["input"]
    phrases = list(dict.fromkeys(_allowed(each) for each in details))
    allowed = " or ".join(part for part in (", ".join(phrases[:-1]), phrases[-1]) if part)
    path = path or "(top level)"
    return [(path, f"{path}: found {_show(found)}; allowed is {allowed}.")]


_ALLOWED = {
    "bool_type": "true or false",
    "dict_type": "a table of keys",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "an integer",
    "int_type": "an integer",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "mapping_type": "a table of keys",
    "model_attributes_type": "a table of keys",
    "model_type": "a table of keys",
    "string_too_long": "text of length {max_length} or less",
    "string_too_short": "text of length {min_length} or more",
    "string_type": "text in quotes",
    "too_long": "a list of length {max_length} or less",
    "too_short": "a list of length {min_length} or more",
    "tuple_type": "a list",
    "union_tag_invalid": "one of {expected_tags}",
}
"""pydantic's error types in the words of someone who writes TOML."""


def _allowed(detail: ErrorDetails) -> str:
    phrase = _ALLOWED.get(detail["type"])
    return phrase.format(**detail.get("ctx", {})) if phrase else detail["msg"].removeprefix("Input should be ")


def _show(value: Any) -> str:
    """Write a value the way it stands in TOML, cut where it is long."""
    if isinstance(value, Mapping):
        return "a table of keys"
    if isinstance(value, tuple):
        shown = f"[{', '.join(_show(item) for item in value[:10])}{', ...' if len(value) > 10 else ''}]"  # noqa: PLR2004
    else:
        shown = str(value).lower() if isinstance(value, bool) else repr(value)
    longest = 100  # characters
    return shown if len(shown) <= longest else f"{shown[:longest]}..."


def _locate(path: str, message: str) -> tuple[str, str]:
    """Put a validator's message behind its path; a key that the message opens with (``steps: ...``) joins the path."""
    opening = re.match(r"([a-z_]+(?:\.[a-z_]+|\[\d+\])*): ", message)
    if opening:
        path = f"{path}.{opening[1]}" if path else opening[1]
        message = message[opening.end() :]
    return path, f"{path}: {message}" if path else message


def _siblings(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are allowed where an unknown one was found."""
    found: list[type[BaseModel]] = [model]
    for part in location[:-1]:
        deeper = [inner for candidate in found for inner in _inner_models(candidate, part)]
        found = deeper or [candidate for candidate in found if _is_tagged(candidate, part)] or found
    return sorted({name for candidate in found for name in candidate.model_fields})


def _is_tagged(model: type[BaseModel], tag: int | str) -> bool:
    """Tell whether this is the member of a union that ``tag`` chooses."""
    annotations = [field.annotation for field in model.model_fields.values()]
    return any(get_origin(annotation) is Literal and tag in get_args(annotation) for annotation in annotations)


def _inner_models(model: type[BaseModel], part: int | str) -> list[type[BaseModel]]:
    field = model.model_fields.get(str(part))
    if field is None:
        return []
    pending, models = [field.annotation], []
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            models.append(annotation)
        pending.extend(get_args(annotation))
    return models
