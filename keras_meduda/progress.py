"""Progress of long work: a bar on a terminal, a few lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress import track as rich_track


def track(items: Iterable, total: int, description: str) -> Iterator:
    """Passes items on and shows how far it is; silent for short work and outside a terminal."""
    if total < 20 or not sys.stderr.isatty():
        return iter(items)
    return rich_track(items, description=description, total=total, console=Console(stderr=True))


class StepBar:
    """Progress of a training: terms of the loss, rate and time left.

    On a terminal a bar; elsewhere one line after ten steps and at every tenth of the way.

    Args:
        steps: of the whole training.
        first: steps that are done already.
        show: whether anything is printed; of several workers one does.
    """

    def __init__(self, steps: int, first: int, show: bool = True):
        self.steps, self.shown, self.start = steps, show, None
        self.next_line = first + 10
        self.bar = None
        if show and sys.stderr.isatty():
            self.bar = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}"),
                console=Console(stderr=True),
            )
            self.task = self.bar.add_task("", total=steps, completed=first, text="first step …")

    def __enter__(self):
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()

    def advance(self, step: int):
        """One step is done. The first is not timed: it compiles."""
        if self.start is None:
            self.start = (step, time.perf_counter())
        if self.bar:
            self.bar.update(self.task, completed=step)

    def show(self, step: int, terms: dict[str, float]):
        """New mean terms of the loss."""
        terms = " ".join(f"{name} {value:.4g}" for name, value in terms.items())
        done = step - self.start[0]
        rate = done / (time.perf_counter() - self.start[1]) if done else 0.0
        if self.bar:
            self.bar.update(self.task, text=f"{rate:.2f} steps/s  {terms}")
        elif self.shown and step >= min(self.next_line, self.steps):
            left = duration((self.steps - step) / rate) if rate else "?"
            line = f"step {step}/{self.steps}  {rate:.2f} steps/s  {left} left  {terms}"
            print(line, file=sys.stderr, flush=True)
            self.next_line = step + max(1, self.steps // 10)


def peak_memory() -> int:
    """The most memory that this process has held so far, in bytes; 0 where nothing tells it."""
    try:
        import resource
    except ImportError:  # Windows
        try:
            import psutil
        except ImportError:
            return 0
        return psutil.Process().memory_info().peak_wset
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says so: TensorFlow, XLA, ONNX Runtime and NumPy each have their own.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError("no such axis"))
        (True, False)
    """
    said = f"{type(error).__name__} {error}".lower()
    words = "resourceexhausted", "out of memory", "failed to allocate", "bad_alloc"
    return isinstance(error, MemoryError) or any(word in said for word in words)


def tolerate_encodings() -> None:
    """Replaces signs that a log or a console lacks, such as an arrow in Latin-1, by `?`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    Example:
        >>> duration(200)
        '3 min 20 s'
    """
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    parts = [(hours, "h"), (minutes, "min"), (seconds if not hours else 0, "s")]
    return " ".join(f"{n} {unit}" for n, unit in parts if n) or "0 s"
