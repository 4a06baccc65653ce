"""Which processor a site trains on, and how a report calls it."""

from typing import Literal

import torch

from hansa_common.errors import SettingsError

Device = Literal["auto", "cpu", "cuda", "mps"]


def choose_device(wanted: Device, *, worker_index: int = 0) -> torch.device:
    """Return the device that a worker process trains on.

    ``auto`` takes a CUDA GPU where there is one and the CPU otherwise. An Apple GPU is taken by name only.

    Args:
        wanted: What the settings ask for.
        worker_index: The worker's place among this machine's workers, from 0; several GPUs are dealt out in turn.

    Raises:
        SettingsError: The device asked for is not there.
    """
    if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()):
        if not torch.cuda.is_available():
            raise SettingsError(
                "device: found 'cuda'; PyTorch finds no CUDA GPU here.",
                path="device",
                advice='Install the driver and a CUDA build of PyTorch, or set device = "cpu".',
            )
        return torch.device("cuda", worker_index % torch.cuda.device_count())
    if wanted == "mps":
        if not torch.backends.mps.is_available():
            raise SettingsError(
                "device: found 'mps'; PyTorch finds no Apple GPU here.", path="device", advice='Set device = "cpu".'
            )
        return torch.device("mps")
    return torch.device("cpu")


def describe(device: torch.device) -> str:
    """Return what a report calls the device, such as ``NVIDIA H100 (cuda:0)`` or ``CPU, 1 thread``."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    if device.type == "mps":
        return "Apple GPU (mps)"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'' if threads == 1 else 's'}"


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the generators that layers such as dropout draw from: the CPU's and the device's own.

    ``torch.manual_seed`` seeds every backend there is and takes 0.1 ms, a tenth of a small site's round.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
