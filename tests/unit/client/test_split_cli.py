"""Parts of a simulated study as files: a real site reads from its file what the simulated one has."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hansa_client.simulated import divide
from hansa_client.site_data import real_site
from hansa_client.split_cli import split
from hansa_common.plan import StudyPlan, dump_plan
from hansa_common.simulation_plan import SourcePlan


def written(plan: StudyPlan, folder: Path, kind: str) -> None:
    study = folder / "study.toml"
    study.write_text(dump_plan(plan))
    split(study, out=folder / "parts")
    sites = divide(plan)
    for index, (name, own) in enumerate(zip(sites.names, sites.indices, strict=True)):
        source = SourcePlan(adapter=kind, path=str(folder / "parts" / f"{name}.{kind}"))
        site, expected = real_site(plan, name=name, index=index, source=source), sites.dataset.take(own)
        assert np.array_equal(site.dataset.features, expected.features)
        assert np.array_equal(site.dataset.labels, expected.labels)
        assert np.array_equal(site.dataset.columns["pump"], expected.columns["pump"])


def test_a_part_keeps_the_columns_that_the_study_splits_by(make_plan: Callable[..., StudyPlan], tmp_path: Path) -> None:
    path, rows = tmp_path / "pumps.csv", ["pump,heat,state,site"]
    rows += [
        f"p{number // 10},{number}.5,{('well', 'ill')[number % 2]},{('north', 'south')[number // 10 % 2]}"
        for number in range(120)
    ]
    path.write_text("\n".join(rows))
    shared: dict[str, Any] = {"evaluation": {"group": "pump", "test": 0.3}}
    windows = {"columns": ["heat"], "unit": "pump", "label": "state"}
    arrays = {"kind": "array", "shape": [4, 1], "classes": ["well", "ill"], "windows": windows}
    table = {"kind": "table", "label": "state", "classes": ["well", "ill"], "columns": [{"name": "heat"}]}
    for data, adapter, kind in ((arrays, "windows", "npz"), (table, "csv", "csv")):
        simulation = {"partition": "column:site", "data": {"adapter": adapter, "path": str(path)}}
        written(make_plan(replaced={"data": data, "simulation": simulation} | shared), tmp_path, kind)
