"""A study with differential privacy between machines: each site's own ledger is charged, and ends what overspends."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.federation import Federation, Site

from hansa_common.audit import read
from hansa_common.plan import StudyPlan, dump_plan

SITES = ("Bergen", "Hamburg", "Visby")
NOISE = {
    "kind": "example",
    "clipping_bound": 1.0,
    "noise_multiplier": 1.0,
    "metrics_noise": 20.0,
    "sampling_rate": 0.05,
    "epsilon": 12.0,
    "delta": 1e-4,
}
PERSONS = '[data.default]\nadapter = "digits"\n[populations.patients]\nstudies = ["default"]\n'


def _spent(site: Site) -> float:
    (ledger,) = json.loads(site.hansa("ledger", "patients", "--json"))
    return float(ledger["spent"])


@pytest.mark.slow
def test_each_site_s_ledger_is_charged_and_the_study_that_would_overspend_trains_nowhere(
    tmp_path: Path, make_federation: Callable[..., Federation], make_plan: Callable[..., StudyPlan]
) -> None:
    plan = make_plan(
        replaced={"simulation": None, "training": {"optimizer": "sgd", "steps": 10, "batch_size": 64}},
        privacy={"weights": "equal", "differential": NOISE},
    )
    path = tmp_path / "small.toml"
    path.write_text(dump_plan(plan))
    federation = make_federation(SITES, data=dict.fromkeys(SITES, PERSONS))
    for site in federation.sites.values():
        assert "patients" in site.hansa("budget", "patients", "--epsilon", "2.35", "--delta", "1e-4")

    row = federation.run(path)
    assert row.state == "completed", row.reason
    found: dict[str, Any] = json.loads((federation.run_folder(row.study) / "metrics.json").read_text())
    assert all(
        site["num_examples"] is site["train_loss"] is None for entry in found["rounds"] for site in entry["sites"]
    )
    assert all(not site["examples"] and not site["class_counts"] for site in found["sites"])
    spent = {}
    for site in federation.sites.values():
        spent[site.name] = _spent(site)
        assert 0.0 < spent[site.name] <= 2.35
        lines = (site.folder / "ledger" / "patients.jsonl").read_text().splitlines()
        assert [json.loads(line)["event"] for line in lines] == ["created", "reserved", *["charged"] * 4]

    again = federation.run(path)  # the same plan, which the sites have approved: it would train a second time
    assert again.state == "failed", again
    assert "budget" in again.reason
    for site in federation.sites.values():
        assert _spent(site) == spent[site.name]
        entries = [entry.details for entry in read(site.folder / "journal.jsonl")]
        second = [found for found in entries if str(found.get("task", "")).startswith(f"{again.study}:train-")]
        assert {found["code"] for found in second if "code" in found} == {"budget"}
