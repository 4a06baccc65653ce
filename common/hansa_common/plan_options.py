"""Keys of a plan's section that the implementation it names checks by itself, as in ``[model]``, ``[aggregation]``."""

from collections.abc import Mapping
from typing import Any

from hansa_common.errors import PlanError
from hansa_common.settings import Strict, parse

Scalar = bool | int | float | str
Options = dict[str, Scalar | tuple[Scalar, ...]]


def collect_options(values: Any, *fixed: str) -> Any:
    """Gather all keys beside ``fixed`` into ``options``, which the named implementation checks."""
    if isinstance(values, Mapping) and "options" not in values:
        options = {key: value for key, value in values.items() if key not in fixed}
        return {key: value for key, value in values.items() if key in fixed} | {"options": options}
    return values


def parse_options(options: type[Strict], values: Options, *, section: str) -> Any:
    """Check the options of a named implementation against its own type.

    Raises:
        PlanError: With the path ``section.key``.
    """
    wrapper = type("Wrapper", (Strict,), {"__annotations__": {section: options}})
    return getattr(parse(wrapper, {section: values}, error=PlanError), section)
