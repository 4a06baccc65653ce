"""A federation on a network of its own: hosts with an address each, a provider between them that loses and delays."""

from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file
from tests.chaos.cutting_proxy import Weather
from tests.chaos.network import (
    KINDS,
    Kind,
    Network,
    NetworkedFederation,
    accepting_in_network_of,
    listening,
)

from hansa_client.split_cli import split
from hansa_server.results import Results

NAMES = ("Bergen", "Hamburg", "Visby")
STUDY = Path(__file__).parents[2] / "deploy" / "studies" / "digits.toml"
WEATHER = Weather(delay=0.01, loss=0.005)  # 20 ms there and back
PARAMETERS = 122_570


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("data")
    split(STUDY, out=folder)
    return {name: f'[data.digits]\nadapter = "npz"\npath = "{folder / name}.npz"\n' for name in NAMES}


def networks_in_use() -> set[str]:
    """The network namespaces that a process of this machine is in."""
    found = set()
    for process in psutil.process_iter():
        try:
            found.add(str(Path(f"/proc/{process.pid}/ns/net").readlink()))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("kinds", [(kind,) for kind in ("root", "user")], ids=["root", "user"])
def test_each_host_has_a_network_until_the_end(kinds: Sequence[Kind]) -> None:
    if not set(kinds) <= set(KINDS):
        pytest.skip("only root makes namespaces without one of users")
    with Network(2, kinds=kinds) as network:
        if network.kind == "loopback":
            pytest.skip(f"no network namespaces here, the federation runs on the loopback: {network.reason}")
        addresses = {network.public, network.coordinator.address, *(site.address for site in network.sites)}
        assert len(addresses) == 4
        assert len(set(network.namespaces)) == 4
        assert set(network.namespaces) <= networks_in_use()
        assert str(Path("/proc/self/ns/net").readlink()) not in network.namespaces
    assert not set(network.namespaces) & networks_in_use()


@pytest.mark.slow
@pytest.mark.parametrize(("rounds", "kinds"), [pytest.param(20, KINDS, id="whole"), pytest.param(2, (), id="loopback")])
def test_three_sites_join_and_run_the_embedded_study_over_a_network(
    data: dict[str, str], tmp_path: Path, rounds: int, kinds: Sequence[Kind]
) -> None:
    with (
        Network(len(NAMES), kinds=kinds) as network,
        NetworkedFederation(tmp_path, network, NAMES, data=data, weather=WEATHER) as federation,
    ):
        study = federation.propose(STUDY, "--rounds", rounds)
        federation.approve(study)
        page = federation.sites["Bergen"].hansa("check")
        assert "MISSING" not in page
        assert f"{network.public}:{federation.enrolment_port} directly, TLS 1.3" in " ".join(page.split())
        row = federation.wait_ended(study)
        assert row.state == "completed", row.reason
        ports = {federation.enrolment_port, federation.federation_port}
        assert listening(federation.server) == ports  # so this look does see what there is
        for site in federation.sites.values():
            assert listening(site.agent) == set()
            if network.kind != "loopback":
                assert accepting_in_network_of(site.agent) == set()
        found = Results.model_validate_json((federation.run_folder(study) / "metrics.json").read_bytes())
        assert [sorted(row.site for row in each.sites) for each in found.rounds] == [list(NAMES)] * rounds
        for site in federation.sites.values():
            model = load_file(site.folder / "models" / study / "model.safetensors")
            assert sum(values.size for values in model.values()) == PARAMETERS
        traffic = federation.traffic()
    whole = 4 * PARAMETERS * rounds * len(NAMES)  # bytes of one way's models
    assert traffic["up"] > whole
    assert traffic["down"] > whole
    assert traffic["accepted"] >= 2 * len(NAMES) + 2  # each joins and is attached, one looks at both ports
    assert not set(network.namespaces) & networks_in_use()
