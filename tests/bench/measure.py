"""Two functions in turn, A B A B: median seconds, their ratio, peak memory, and how far their results differ."""

import ctypes
import gc
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

PAGE = 4096
KINK = 1e-5
"""Share of the largest value beyond which an entry counts as different: a slope flipped by rounding."""


@dataclass
class Row:
    """One line of the table."""

    case: str
    ours: float
    plain: float
    memory: float
    plain_memory: float
    error: float
    share: float

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.plain / self.ours


class Peak:
    """Largest memory inside the block above what it was before, in GB: the process's, or on a GPU that of tensors."""

    def __init__(self, device: torch.device | None = None) -> None:
        self._cuda = device is not None and device.type == "cuda"

    def __enter__(self) -> "Peak":
        gc.collect()
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            self._held = torch.cuda.memory_allocated()
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not hide what is taken now
        self._before = self._top = resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self._top = max(self._top, resident())

    def __exit__(self, *_: object) -> None:
        self._top = max(self._top, resident())
        self._stop.set()
        self._thread.join()

    @property
    def gigabytes(self) -> float:
        """The rise."""
        if self._cuda:
            return (torch.cuda.max_memory_allocated() - self._held) / 1e9
        return (self._top - self._before) / 1e9


def resident() -> int:
    """Bytes of memory the process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def timed(run: Callable[[], torch.Tensor]) -> float:
    """Seconds."""
    begun = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def pair(
    case: str,
    ours: Callable[[], torch.Tensor],
    plain: Callable[[], torch.Tensor],
    scale: float = 1.0,
    repeats: int = 3,
    device: torch.device | None = None,
) -> Row:
    """Time both in turn.

    Args:
        case: what the row is called.
        ours, plain: give the same map, or `plain` a part of it whose time `scale` multiplies.
        scale: from the plain method's measured part to the whole.
        repeats: of each, after one uncounted run that measures memory and gives the results compared.
        device: whose memory is measured; None: the process's.
    """
    runs, peaks, results = {"ours": ours, "plain": plain}, {}, {}
    for name, run in runs.items():
        with Peak(device) as peaks[name]:
            results[name] = run().cpu()
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(timed(run))
    top = results["plain"].abs().max()
    apart = (results["ours"] - results["plain"]).abs() / top
    return Row(
        case,
        statistics.median(times["ours"]),
        statistics.median(times["plain"]) * scale,
        peaks["ours"].gigabytes,
        peaks["plain"].gigabytes,
        float(apart.max()),
        float((apart > KINK).double().mean()),
    )


def table(rows: list[Row]) -> str:
    """Markdown."""
    head = "| case | ours, s | plain, s | ratio | ours, GB | plain, GB | largest difference | entries over 1e-5 |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for r in rows:
        numbers = f"{r.ours:.3g} | {r.plain:.4g} | **{r.ratio:.3g}** | {r.memory:.2f} | {r.plain_memory:.2f}"
        lines.append(f"| {r.case} | {numbers} | {r.error:.1e} | {r.share:.1e} |")
    return "\n".join(lines)
