"""What a step costs: seconds, memory, and what the device does meanwhile."""

import json
import resource
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

KERNELS = ("kernel", "gpu_memcpy", "gpu_memset")  # categories of a trace: the device's work
OPERATIONS = ("cpu_op",)  # ... and what stands in for it on the CPU
LARGEST = 12


def seconds_of_steps(
    step: Callable[[Any], object], batches: Iterable[Any], device: torch.device
) -> list[float]:
    """Of each step. On a GPU between two events, so that nothing waits for the figures."""
    marks = [_now(device)]
    for batch in batches:
        step(batch)
        marks.append(_now(device))
    if device.type == "cuda":
        torch.cuda.synchronize()
        return [a.elapsed_time(b) / 1e3 for a, b in pairwise(marks)]
    return [b - a for a, b in pairwise(marks)]


def _now(device: torch.device) -> Any:
    if device.type == "cpu":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def peak_memory(device: torch.device) -> dict[str, float]:
    """GiB: of tensors, and of all that the allocator holds; on the CPU of this process."""
    if device.type == "cpu":
        gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return {"allocated": gib, "reserved": gib}
    return {
        "allocated": torch.cuda.max_memory_allocated() / 2**30,
        "reserved": torch.cuda.max_memory_reserved() / 2**30,
    }


def synchronisations(
    step: Callable[[Any], object], batches: Sequence[Any], device: torch.device
) -> float:
    """How often a step makes the CPU wait for the GPU."""
    if device.type == "cpu":
        return 0.0
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for batch in batches:
            step(batch)
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in caught) / len(batches)


def busy(
    step: Callable[[Any], object], batches: Sequence[Any], device: torch.device
) -> dict[str, Any]:
    """Per step over the batches: kernels, seconds in which at least one runs, and the largest."""
    cuda = device.type == "cuda"
    activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profile:
        for batch in batches:
            step(batch)
        if cuda:
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    return of_trace(events, KERNELS if cuda else OPERATIONS, len(batches))


def of_trace(events: Iterable[Any], categories: Sequence[str], steps: int) -> dict[str, Any]:
    """The device's part of a trace; its times are in microseconds."""
    mine = [event for event in events if event.get("cat") in categories]
    by_name: dict[str, list[float]] = defaultdict(list)
    for event in mine:
        by_name[event["name"]].append(event["dur"])
    largest = sorted(by_name.items(), key=lambda each: -sum(each[1]))[:LARGEST]
    spans = [(event["ts"], event["ts"] + event["dur"]) for event in mine]
    return {
        "kernels": len(mine) / steps,
        "busy_s": _covered(spans) / 1e6 / steps,
        "largest": [
            {"name": name, "ms": sum(times) / 1e3 / steps, "calls": len(times) / steps}
            for name, times in largest
        ],
    }


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of some spans."""
    covered, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        covered += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return covered
