"""Name -> implementation, filled by a decorator; a name is given once."""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from hansa_common.errors import UsageError

T = TypeVar("T")


def suggest(found: str, allowed: Sequence[str]) -> str:
    """Say what is allowed, the closest name first as a question: the advice of an error about a wrong name."""
    close = difflib.get_close_matches(found, allowed, n=1)
    question = f"Did you mean '{close[0]}'? " if close else ""
    return f"{question}Allowed: {', '.join(allowed)}."


class Registry(Mapping[str, T], Generic[T]):
    """A mapping that refuses a second implementation of a name and explains an unknown one.

    Args:
        kind: What the entries are, as a person calls it: ``"aggregation strategy"``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that files what it decorates under ``name``.

        Raises:
            RuntimeError: The name is taken; two implementations must not compete silently.
        """

        def decorate(entry: T) -> T:
            if name in self._entries:
                raise RuntimeError(f"There is a {self.kind} named '{name}' already.")
            self._entries[name] = entry
            return entry

        return decorate

    def find(self, name: str) -> T:
        """Return the entry called ``name``.

        Raises:
            UsageError: There is none; the advice lists what there is.
        """
        try:
            return self._entries[name]
        except KeyError:
            raise UsageError(f"There is no {self.kind} named '{name}'.", advice=suggest(name, sorted(self))) from None

    def __getitem__(self, name: str) -> T:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
