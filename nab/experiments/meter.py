"""`Meter`: memory and energy of a block of work, as far as the machine reports them."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

import torch

from nab.training.memory import release_freed_memory

_RESET_PEAK = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_POWERCAP = Path("/sys/class/powercap")


class Meter:
    """Measures memory and energy from the moment it is made.

    Args:
        device: the device that trains.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        release_freed_memory()  # else memory that earlier work freed would count
        with contextlib.suppress(OSError):
            _RESET_PEAK.write_text("5")  # tells the kernel to forget the peak so far
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._energy = _energy(device)

    def peak_memory_mb(self) -> dict[str, float]:
        """MiB: the highest of the process (``host``) and on the GPU (``device``). Where the kernel cannot forget an
        earlier peak, ``host`` is the highest since the process began."""
        peaks = {"host": _peak_of_process()}
        if self._device.type == "cuda":
            peaks["device"] = torch.cuda.max_memory_allocated(self._device) / 2**20
        return peaks

    def energy_joules(self) -> dict[str, float]:
        """Joules of all processors (``host``, from RAPL) and of the GPU (``device``, from NVML), each left out where it
        cannot be read."""
        now = _energy(self._device)
        return {name: now[name] - before for name, before in self._energy.items() if now.get(name, 0.0) >= before}


def _peak_of_process() -> float:
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _energy(device: torch.device) -> dict[str, float]:
    """Counters in joules."""
    found = {}
    with contextlib.suppress(OSError, ValueError):  # only root may read them on most machines
        packages = [folder / "energy_uj" for folder in _POWERCAP.glob("intel-rapl:?")]
        if packages:
            found["host"] = sum(int(package.read_text()) for package in packages) / 1e6
    if device.type == "cuda":
        with contextlib.suppress(Exception):  # an optional package, whose errors are its own
            import pynvml

            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
            found["device"] = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
    return found
