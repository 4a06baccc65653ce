import pytest
import torch

from hansa_client.device import choose_device, describe, seed_device
from hansa_common.errors import SettingsError


def pretend(monkeypatch: pytest.MonkeyPatch, *, gpus: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)


def test_auto_is_the_cpu_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus=0)
    assert choose_device("auto") == torch.device("cpu")


def test_auto_deals_out_several_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus=2)
    assert [str(choose_device("auto", worker_index=index)) for index in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]


def test_the_cpu_is_taken_when_asked_for_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus=1)
    assert choose_device("cpu") == torch.device("cpu")


def test_a_missing_gpu_that_was_asked_for_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus=0)
    with pytest.raises(SettingsError, match="no CUDA GPU") as caught:
        choose_device("cuda")
    assert caught.value.path == "device"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="no Apple GPU"):
        choose_device("mps")


def test_an_apple_gpu_is_taken_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("mps") == torch.device("mps")


def test_reports_name_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert describe(torch.device("cpu")) == "CPU, 1 thread"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert describe(torch.device("cpu")) == "CPU, 4 threads"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Fast GPU")
    assert describe(torch.device("cuda", 1)) == "Fast GPU (cuda:1)"
    assert describe(torch.device("mps")) == "Apple GPU (mps)"


def test_seeding_the_cpu_is_what_manual_seed_does() -> None:
    seed_device(torch.device("cpu"), 7)
    found = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(found, torch.rand(3))
