"""``hansa split``: writes the parts of a simulated study as files, one a site, to try a federation with."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hansa_common.errors import UsageError

if TYPE_CHECKING:  # --help must not wait for NumPy
    import numpy as np
    import numpy.typing as npt

    from hansa_client.data import Dataset
    from hansa_common.contract import TableContract
    from hansa_common.models.registry import Contract

    Columns = dict[str, npt.NDArray[np.str_]]


def split(
    study: Annotated[Path, typer.Argument(help="Study file with [simulation].")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the files; made where it is missing.")] = Path("data"),
) -> None:
    """Write each simulated site's data as a file, to try a federation with."""
    from hansa_client.data.text_columns import needed_columns  # noqa: PLC0415
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
        further = {column: part.columns[column] for column in needed_columns(plan) if column in part.columns}
        if isinstance(plan.data, TableContract):
            if any(column.categories for column in plan.data.columns) or plan.data.standardise == "site":
                raise UsageError(
                    "A table with categories or standardise = 'site' is read encoded and cannot be written back.",
                    advice="Divide the original file yourself, and name each part in a site.toml.",
                )
            path = _write_table(out / f"{name}.csv", part, plan.data, further)
        else:
            path = _write_arrays(out / f"{name}.npz", part, plan.data, further)
        typer.echo(f"{name}: {len(part)} examples. In its site.toml:\n  [data.{plan.name}]")
        typer.echo(f'  adapter = "{path.suffix[1:]}"\n  path = "{path.resolve()}"')


def _learned(part: "Dataset", contract: "Contract") -> "dict[str, npt.NDArray[Any]]":
    """Return what is learned as the adapters read it, by column or array."""
    import numpy as np  # noqa: PLC0415 - --help must not wait for it

    target = contract.target
    if target is not None and target.kind == "reconstruction":
        if target.anomaly is None:
            return {}
        return {target.anomaly: np.asarray([target.normal[0], target.anomalous[0]])[part.labels]}
    if target is not None and target.kind == "survival":
        return {target.time: np.asarray(part.targets), target.event: part.labels}
    return {"y": part.labels if part.targets is None else part.targets}


def _write_arrays(path: Path, part: "Dataset", contract: "Contract", further: "Columns") -> Path:
    import numpy as np  # noqa: PLC0415 - --help must not wait for it

    arrays: dict[str, Any] = {"x": part.features, **further, **_learned(part, contract)}
    np.savez(path, **arrays)
    return path


def _write_table(path: Path, part: "Dataset", contract: "TableContract", further: "Columns") -> Path:
    columns = {name: values.tolist() for name, values in (further | _learned(part, contract)).items()}
    if contract.label:
        values = columns.pop("y")
        columns[contract.label] = [contract.classes[label] for label in values] if contract.classes else values
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*(column.name for column in contract.columns), *columns])
        for row, *learned in zip(part.features.tolist(), *columns.values(), strict=True):
            writer.writerow([*row, *learned])
    return path
