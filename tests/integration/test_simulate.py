"""``hansa simulate`` as a person runs it: real processes, real files, every kind of bad input."""

import csv
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from safetensors.numpy import load_file

from hansa_common.cli import main
from hansa_common.errors import StudyFailed
from hansa_common.models import ARCHITECTURES
from hansa_common.plan import StudyPlan, dump_plan
from hansa_server.app import server_app
from hansa_server.engines.engine import Machine
from hansa_server.engines.flower_app import run_on
from hansa_server.engines.local import LocalGrid
from hansa_server.progress import Quiet
from hansa_server.simulation import simulate
from hansa_server.store import RunFolder
from hansa_server.study import Study

APPS = Path(__file__).parent / "apps"
HANSA = Path(sys.executable).parent / "hansa"


def hansa(*arguments: str | Path, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HANSA, *arguments], cwd=cwd, capture_output=True, text=True, timeout=200, check=False, **options
    )


def hansa_here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str | Path
) -> tuple[int, str]:
    """Run the command in this process, which has its imports done; return the exit code and what it says."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["hansa", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0), capsys.readouterr().err


def write_study(folder: Path, plan: StudyPlan) -> Path:
    path = folder / "study.toml"
    path.write_text(dump_plan(plan))
    return path


def metrics(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return content


def run_in_process(plan: StudyPlan, folder: Path, **options: Any) -> Any:
    run_folder = RunFolder.create(folder)
    run_folder.save_plan(plan)
    try:
        return simulate(plan, run_folder, machine=Machine(**options), observer=Quiet())
    finally:
        run_folder.close()


def test_a_run_leaves_every_file_and_they_agree(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan(simulation={"holdout": 0.1})
    done = hansa("simulate", write_study(tmp_path, plan), "--out", "run", "--baselines", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    results = metrics(run)
    assert results["status"] == "completed"
    final = results["final"]
    assert final["weighted_mean"]["accuracy"] > 0.6
    assert final["worst_site"]["accuracy"] <= final["site_mean"]["accuracy"]
    assert final["coordinator"]["num_examples"] == 180
    local = {site["site"]: site["local_only"]["accuracy"] for site in results["sites"]}
    against = final["worst_site_against_local"]
    assert against["local_only_accuracy"] == local[final["worst_site"]["site"]]
    assert [entry["round"] for entry in results["rounds"]] == [1, 2, 3]
    assert results["timing"]["total_seconds"] > 0
    vector = 4 * results["parameters"]
    assert results["bytes"]["up"] > 3 * 4 * vector
    assert results["bytes"]["down"] > 3 * 4 * vector
    assert "Report: run/report.html" in done.stdout
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["site"] for row in rows} >= set(local)
    assert "<svg" in (run / "report.html").read_text()
    assert "<svg" in (run / "partition.svg").read_text()
    assert "site-1" in (run / "MODEL_CARD.md").read_text()
    tensors = load_file(run / "model.safetensors")
    model = ARCHITECTURES["logistic"].build(plan.model_options(), plan.data)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in tensors.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("partition", ["shards:3", "quantity:1.0"])
def test_the_sites_hold_all_examples_between_them(
    tmp_path: Path, make_plan: Callable[..., StudyPlan], partition: str
) -> None:
    results = run_in_process(
        make_plan(simulation={"partition": partition}, rounds={"count": 1}), tmp_path / "run", workers=1
    )
    assert sum(sum(site.examples.values()) for site in results.sites) == 1797


@pytest.mark.slow
def test_both_engines_give_bit_identical_parameters(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    """One study on every engine, and on another number of workers: the bits do not change."""
    plan = make_plan(rounds={"count": 2}, training={"optimizer": "adam", "learning_rate": 0.01})
    digests = {
        f"{engine}-{workers}": run_in_process(plan, tmp_path / f"{engine}-{workers}", engine=engine, workers=workers)
        for engine, workers in (("local", 1), ("local", 2), ("local", 4), ("ray", 2))
    }
    assert len({results.model_sha256 for results in digests.values()}) == 1
    assert len({results.final.model_dump_json() for results in digests.values()}) == 1


@pytest.mark.slow
def test_another_seed_gives_another_model(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    one, other = (
        run_in_process(make_plan(seed=seed, rounds={"count": 1}), tmp_path / str(seed), workers=1) for seed in (1, 2)
    )
    assert one.model_sha256 != other.model_sha256


@pytest.mark.slow
def test_a_killed_run_resumes_to_exactly_the_uninterrupted_model(
    tmp_path: Path, make_plan: Callable[..., StudyPlan]
) -> None:
    plan = make_plan(rounds={"count": 6}, training={"epochs": 8})
    study = write_study(tmp_path, plan)
    assert hansa("simulate", study, "--out", "whole", "-q", cwd=tmp_path).returncode == 0
    process = subprocess.Popen(
        [HANSA, "simulate", study, "--out", "killed"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("round 3/6"):
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "killed" / "metrics.json").exists()
    resumed = hansa("simulate", "--resume", "killed", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "round 1/6" not in resumed.stdout
    whole, killed = metrics(tmp_path / "whole"), metrics(tmp_path / "killed")
    assert killed["model_sha256"] == whole["model_sha256"]
    assert killed["final"] == whole["final"]
    assert [entry["round"] for entry in killed["rounds"]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_keeps_what_was_reached(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    study = write_study(tmp_path, make_plan(rounds={"count": 500}))
    process = subprocess.Popen(
        [HANSA, "simulate", study, "--out", "run"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("round 2/500"):
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
            break
    _out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "stopped by its operator" in err
    assert "--resume run" in err
    assert "Traceback" not in err
    results = metrics(tmp_path / "run")
    assert results["status"] == "stopped"
    assert 2 <= len(results["rounds"]) < 500
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert "stopped" in (tmp_path / "run" / "report.html").read_text()


def conduct(plan: StudyPlan, folder: Path, monkeypatch: pytest.MonkeyPatch, faults: str) -> Study:
    """Run a study on engine local with the faulty ClientApp."""
    monkeypatch.setenv("HANSA_TEST_FAULTS", faults)
    study = Study(plan=plan, folder=RunFolder.create(folder), engine="local", observer=Quiet())
    grid = LocalGrid(client_app="faulty_client:app", nodes=4, workers=2, folder=APPS, log=folder / "workers.log")
    run_on(grid, server_app(study.run, threading.Event()))
    return study


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("kill", "killed by SIGKILL"),
        pytest.param("nan", "NaN or infinity", marks=pytest.mark.slow),
        pytest.param("raise", "ValueError", marks=pytest.mark.slow),
        pytest.param("hang", "deadline", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_the_round_goes_on_with_the_quorum_and_says_who_is_missing(
    tmp_path: Path,
    make_plan: Callable[..., StudyPlan],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    reason: str,
) -> None:
    deadline = 12.0 if fault == "hang" else 60.0
    plan = make_plan(rounds={"count": 2, "quorum": 0.75, "deadline_seconds": deadline})
    study = conduct(plan, tmp_path / "run", monkeypatch, f"{fault}:1:1")
    assert list(study.rounds[0].missing) == ["site-2"]
    assert reason in study.rounds[0].missing["site-2"]
    assert not study.rounds[1].missing
    assert study.closing is not None


@pytest.mark.slow
def test_below_the_quorum_the_study_stops_with_a_checkpoint(
    tmp_path: Path, make_plan: Callable[..., StudyPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(rounds={"count": 3, "quorum": 0.75})
    with pytest.raises(StudyFailed, match=r"(?s)Round 2 is void: 2 of 4.*site-1.*SIGKILL.*site-3.*SIGKILL"):
        conduct(plan, tmp_path / "run", monkeypatch, "kill:0:2 kill:2:2")
    checkpoint = RunFolder(tmp_path / "run").load_checkpoint()
    assert checkpoint is not None
    assert len(checkpoint.progress.rounds) == 1


@pytest.mark.slow
def test_the_servers_process_needs_no_torch(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    study = write_study(tmp_path, make_plan(rounds={"count": 1}))
    script = (
        "import sys\n"
        f"sys.argv = ['hansa', 'simulate', {str(study)!r}, '--out', 'run', '-q']\n"
        "from hansa_common.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


BAD_PLANS = {
    "a typo": (
        ("learning_rate", "learning_rat"),
        r"training\.learning_rat: unknown key\. Did you mean 'learning_rate'",
    ),
    "a wrong type": (("count = 3", 'count = "3"'), r"rounds\.count: found '3'"),
    "an unknown model": (('"logistic"', '"logistik"'), "Did you mean 'logistic'"),
    "an unknown strategy": (('"fedavg"', '"fedavgg"'), "Did you mean 'fedavg'"),
    "an unknown adapter": (('"digits"', '"digit"'), "Did you mean 'digits'"),
    "an unknown option of the strategy": (('strategy = "fedavg"', 'strategy = "fedavg"\nmu = 0.1'), r"aggregation\.mu"),
    "an impossible split": (("test = 0.2", "test = 0.95"), "evaluation"),
    "no TOML": (("[model]", "[model"), "not valid TOML"),
}


@pytest.mark.parametrize(("change", "expected"), BAD_PLANS.values(), ids=BAD_PLANS.keys())
def test_a_bad_plan_is_wrong_usage_and_leaves_no_run(
    tmp_path: Path,
    small_plan: StudyPlan,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: tuple[str, str],
    expected: str,
) -> None:
    text = dump_plan(small_plan)
    assert change[0] in text
    (tmp_path / "study.toml").write_text(text.replace(*change, 1))
    code, said = hansa_here(capsys, monkeypatch, tmp_path, "simulate", "study.toml", "--out", "run")
    assert code == 2, said
    assert re.search(expected, said.replace("\n", " ")), said
    assert not (tmp_path / "run").exists()


BAD_OPTIONS = {
    "no such option": (["--round", "3"], "--rounds"),
    "a bad partition": (["--partition", "dirichlet"], "allowed is iid"),
    "no sites": (["--sites", "0"], "--sites"),
    "a missing study": (["nowhere.toml"], "cannot be read"),
    "a folder that holds no run": (["--resume", "."], "holds no run"),
    "resume with other options": (["--resume", ".", "--rounds", "3"], "cannot go with --resume"),
    "an app that is none": (["--app", "nowhere"], "Allowed is package.server:app"),
    "too many sites for the data": (["--sites", "900"], "site"),
    "a column that is not there": (["--partition", "column:hospital"], "hospital"),
    "an address without its engine": (["--ray-address", "auto"], "goes with --engine ray"),
    "a run configuration without its app": (["--run-config", "a=1"], "goes with --app"),
    "an address that is none": (["--engine", "ray", "--ray-address", "127.0.0.1:99999"], "Ray"),
    "no Ray cluster": (["--engine", "ray", "--ray-address", "127.0.0.1:1"], "Ray"),
}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param(*case, id=name, marks=[pytest.mark.slow] if name == "too many sites for the data" else [])
        for name, case in BAD_OPTIONS.items()
    ],
)
def test_a_bad_option_is_explained(
    tmp_path: Path,
    small_plan: StudyPlan,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    expected: str,
) -> None:
    study = [] if {"--resume", "--app", "nowhere.toml"} & set(options) else [str(write_study(tmp_path, small_plan))]
    code, said = hansa_here(capsys, monkeypatch, tmp_path, "simulate", *study, *options)
    assert code == (1 if "900" in options else 2), said
    assert expected in said, said


@pytest.mark.slow
def test_a_second_run_into_the_same_folder_is_refused(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    study = write_study(tmp_path, make_plan(rounds={"count": 1}))
    assert hansa("simulate", study, "--out", "run", cwd=tmp_path).returncode == 0
    before = (tmp_path / "run" / "metrics.json").read_bytes()
    again = hansa("simulate", study, "--out", "run", cwd=tmp_path)
    assert again.returncode == 2
    assert "--resume run" in again.stderr
    assert (tmp_path / "run" / "metrics.json").read_bytes() == before


@pytest.mark.slow
def test_a_site_with_one_example_is_named(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    rows = ["hospital,age,outcome"]
    rows += [f"Bergen,{20 + n},{'yes' if n % 2 else 'no'}" for n in range(40)]
    rows += ["Visby,33,yes"]
    (tmp_path / "patients.csv").write_text("\n".join(rows) + "\n")
    plan = make_plan(
        replaced={
            "data": {
                "kind": "table",
                "label": "outcome",
                "classes": ["no", "yes"],
                "columns": [{"name": "age"}],
                "minimum_examples": 1,
            },
            "simulation": {"partition": "column:hospital", "data": {"adapter": "csv", "path": "patients.csv"}},
        }
    )
    done = hansa("simulate", write_study(tmp_path, plan), cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert "Visby" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_natural_institutions_keep_their_names(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    rows = ["hospital,age,outcome"]
    for hospital in ("Bergen", "Visby"):
        rows += [f"{hospital},{20 + n},{'yes' if n > 30 else 'no'}" for n in range(60)]
    (tmp_path / "patients.csv").write_text("\n".join(rows) + "\n")
    plan = make_plan(
        replaced={
            "data": {
                "kind": "table",
                "label": "outcome",
                "classes": ["no", "yes"],
                "columns": [{"name": "age"}],
                "standardise": "site",
            },
            "simulation": {"partition": "column:hospital", "data": {"adapter": "csv", "path": "patients.csv"}},
        }
    )
    done = hansa("simulate", write_study(tmp_path, plan), "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [site["site"] for site in metrics(tmp_path / "run")["sites"]] == ["Bergen", "Visby"]


@pytest.mark.slow
def test_a_full_disk_ends_the_study_with_an_error_and_nothing_half_written(
    tmp_path: Path, make_plan: Callable[..., StudyPlan]
) -> None:
    """A limit on the size of files stands for the full disk: the same error path, from the same system call."""
    study = write_study(tmp_path, make_plan(rounds={"count": 2}))

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_500, 2_500))

    done = hansa("simulate", study, "--out", "run", cwd=tmp_path, preexec_fn=limit)
    assert done.returncode == 1, done.stderr
    assert "Cannot write run/checkpoint.safetensors: File too large." in done.stderr
    assert "nothing half-written" in done.stderr
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {".lock", "plan.toml", "workers.log"}
    assert hansa("simulate", "--resume", "run", cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_quiet_prints_nothing(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    study = write_study(tmp_path, make_plan(rounds={"count": 1}))
    done = hansa("simulate", study, "--out", "run", "--quiet", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_options_change_the_plan_that_is_written(tmp_path: Path, small_plan: StudyPlan) -> None:
    study = write_study(tmp_path, small_plan)
    options = ["--sites", "3", "--partition", "iid", "--rounds", "1", "--seed", "5", "--engine", "local"]
    done = hansa("simulate", study, *options, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = metrics(tmp_path / "run")
    assert (len(results["sites"]), results["partition"], len(results["rounds"]), results["seed"]) == (3, "iid", 1, 5)


@pytest.mark.slow
def test_any_other_flower_app_runs_on_engine_local(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        tomli_w.dumps({"tool": {"flwr": {"app": {"config": {"num-server-rounds": 9}}}}})
    )
    environment = os.environ | {"PYTHONPATH": str(APPS)}
    options = ["--sites", "3", "--run-config", "num-server-rounds=2"]
    done = hansa("simulate", "--app", "stock:server,stock:client", *options, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "weights [4.0, 4.0, 4.0]" in done.stdout  # two rounds of mean(1, 2, 3)
    assert "calls 2.0" in done.stdout


@pytest.mark.slow
def test_a_terminal_shows_a_live_display(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    import pty

    study = write_study(tmp_path, make_plan(rounds={"count": 2}))
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"}
    process = subprocess.Popen(
        [HANSA, "simulate", study, "--out", "run"], cwd=tmp_path, stdout=follower, stderr=follower, env=environment
    )
    os.close(follower)
    shown = b""
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        try:
            shown += os.read(leader, 4096)
        except OSError:  # the other end is closed: the process has ended
            break
    assert process.wait() == 0
    os.close(leader)
    assert b"round 2 of 2" in shown
    assert b"\x1b[" in shown
    assert b"report.html" in shown


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.slow
def test_the_app_of_the_flower_bundle_runs_a_study(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    from hansa_server.bundle import app

    study = write_study(tmp_path, make_plan(rounds={"count": 1}))
    grid = LocalGrid(client_app="hansa_client.app:app", nodes=4, workers=2, log=tmp_path / "log")
    run_on(grid, app, {"study": str(study), "out": str(tmp_path / "run")})
    assert metrics(tmp_path / "run")["status"] == "completed"


@pytest.mark.slow
def test_a_study_runs_on_a_ray_cluster_that_is_there_already(
    tmp_path: Path, make_plan: Callable[..., StudyPlan]
) -> None:
    ray = Path(sys.executable).parent / "ray"
    address = "127.0.0.1:6399"
    command = [str(ray), "start", "--head", "--node-ip-address=127.0.0.1", "--port=6399", "--num-cpus=2"]
    options = ["--include-dashboard=false", "--disable-usage-stats"]
    subprocess.run([*command, *options], check=True, capture_output=True)
    try:
        study = write_study(tmp_path, make_plan(rounds={"count": 2}))
        on_cluster = hansa(
            "simulate", study, "--engine", "ray", "--ray-address", address, "--out", "cluster", "-q", cwd=tmp_path
        )
        assert on_cluster.returncode == 0, on_cluster.stderr
    finally:
        subprocess.run([ray, "stop", "--force"], check=True, capture_output=True)
    assert hansa("simulate", study, "--out", "local", "-q", cwd=tmp_path).returncode == 0
    assert metrics(tmp_path / "cluster")["model_sha256"] == metrics(tmp_path / "local")["model_sha256"]
