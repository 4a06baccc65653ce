"""What a data adapter is: it reads one kind of file or data set and returns a ``Dataset`` that fulfils the contract.

Shapes: ``N`` examples, ``C`` channels, ``H`` height, ``W`` width, ``F`` features, ``K`` classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hansa_common.models.registry import Contract
from hansa_common.plan_options import Options
from hansa_common.registry import Registry

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Examples that fulfil a data contract.

    Attributes:
        features: Images ``uint8 [N, H, W, C]``, or ``float32 [N, *shape]`` for arrays and tables ``[N, F]``.
        labels: ``int64 [N]``, each an index into the contract's classes.
        columns: Further columns by name, ``[N]`` each, that a ``column:NAME`` partition may split by, or that say whose
            a row is; an empty text where a row has no value.
        origin: Where it came from, for people: a path or the name of a bundled data set.
    """

    features: npt.NDArray[np.uint8] | npt.NDArray[np.float32] = field(repr=False)
    labels: npt.NDArray[np.int64] = field(repr=False)
    columns: Mapping[str, npt.NDArray[np.str_]] = field(default_factory=dict, repr=False)
    origin: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Indices) -> "Dataset":
        """Return the examples at these positions, in this order."""
        return Dataset(
            features=self.features[indices],
            labels=self.labels[indices],
            columns={name: values[indices] for name, values in self.columns.items()},
            origin=self.origin,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where an adapter reads: the site's settings, never the server's word.

    Attributes:
        path: File or folder, or ``None`` for a bundled data set.
        options: The adapter's own options.
        columns: Further columns that the study needs, each returned whatever its values are; the study refuses data
            without them.
    """

    path: Path | None = None
    options: Options = field(default_factory=dict)
    columns: tuple[str, ...] = ()


Adapter = Callable[[Source, Contract], Dataset]
"""Reads the source and returns data that fulfils the contract.

Raises ``DataUnavailable`` when it cannot be read, ``ContractViolation`` when it does not fulfil the contract, and
``SettingsError`` for an unknown option.
"""

ADAPTERS: Registry[Adapter] = Registry("data adapter")
