"""``hansa split``: writes the parts of a simulated study as files, one a site, to try a federation with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hansa_common.errors import UsageError

if TYPE_CHECKING:  # --help must not wait for NumPy
    from hansa_client.data import Dataset
    from hansa_common.contract import TableContract


def split(
    study: Annotated[Path, typer.Argument(help="Study file with [simulation].")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the files; made where it is missing.")] = Path("data"),
) -> None:
    """Write each simulated site's data as a file, to try a federation with."""
    from hansa_client.simulated import divide  # noqa: PLC0415
    from hansa_common.contract import TableContract  # noqa: PLC0415
    from hansa_common.files import storage  # noqa: PLC0415
    from hansa_common.plan import read_plan  # noqa: PLC0415

    plan = read_plan(study)
    sites = divide(plan)
    with storage(out, "create", advice="Check --out."):
        out.mkdir(parents=True, exist_ok=True)
    for name, indices in zip(sites.names, sites.indices, strict=True):
        part = sites.dataset.take(indices)
        if isinstance(plan.data, TableContract):
            if any(column.categories for column in plan.data.columns) or plan.data.standardise == "site":
                raise UsageError(
                    "This table's columns were encoded and cannot be written back.",
                    advice="Divide the original file yourself, and name each part in a site.toml.",
                )
            path = _write_table(out / f"{name}.csv", part, plan.data)
        else:
            path = _write_arrays(out / f"{name}.npz", part)
        typer.echo(f"{name}: {len(part)} examples. In its site.toml:\n  [data.{plan.name}]")
        typer.echo(f'  adapter = "{path.suffix[1:]}"\n  path = "{path.resolve()}"')


def _write_arrays(path: Path, part: "Dataset") -> Path:
    import numpy as np  # noqa: PLC0415

    np.savez(path, x=part.features, y=part.labels)
    return path


def _write_table(path: Path, part: "Dataset", contract: "TableContract") -> Path:
    names = [column.name for column in contract.columns]
    lines = [",".join([*names, contract.label])]
    for row, label in zip(part.features.tolist(), part.labels.tolist(), strict=True):
        lines.append(",".join([*map(repr, row), contract.classes[label]]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
