"""Progress of long work: a bar on a terminal, a few lines elsewhere."""

import contextlib
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LONG = 10.0  # seconds: work that takes less needs no line
_shown = []  # displays on the terminal, the one that began last at the end


def track(items: Iterable, total: int, description: str) -> Iterator:
    """Passes items on and shows how far it is, with the time left.

    On a terminal as a bar, that of a training being joined. Elsewhere as a line at every tenth of
    the way, and none within ten seconds.

    Args:
        items: what is worked on, or what has been, one after the other.
        total: how many there are.
        description: of the work, such as "evaluating".
    """
    shown = _bar if sys.stderr.isatty() else _lines
    return shown(items, total, description)


def _bar(items, total, description):
    with contextlib.ExitStack() as stack:
        joined = bool(_shown)
        progress = _shown[-1] if joined else stack.enter_context(_display(total < 20))
        task = progress.add_task(description, total=total, text="")
        if joined:
            stack.callback(progress.remove_task, task)
        for item in items:
            yield item
            progress.advance(task)


def _lines(items, total, description):
    began = last = time.perf_counter()
    for done, item in enumerate(items, 1):
        yield item
        now = time.perf_counter()
        each = (now - began) / done
        if done < total and now - last >= max(LONG, each * total / 10):
            left = duration(each * (total - done))
            print(f"{description} {done}/{total}  {left} left", file=sys.stderr, flush=True)
            last = now


@contextlib.contextmanager
def _display(transient=False):
    """A live display, of which a terminal bears one: who comes later adds a bar to it."""
    progress = Progress(
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
        console=Console(stderr=True),
        transient=transient,
    )
    with progress:
        _shown.append(progress)
        try:
            yield progress
        finally:
            _shown.remove(progress)


class StepBar:
    """Progress of a training: terms of the loss, rate and time left.

    On a terminal a bar; elsewhere a line after ten steps, at every tenth of the way, and where a
    minute has passed without one. The rate counts training alone, the time left validations too.

    Args:
        steps: of the whole training.
        first: steps that are done already.
        show: whether anything is printed; of several workers one does.
        validate_every: steps between validations. Default: there are none.
    """

    def __init__(self, steps: int, first: int, show: bool = True, validate_every=None):
        self.steps, self.first, self.shown, self.start = steps, first, show, None
        self.every, self.validations = validate_every, []  # seconds that each has taken
        self.next_line, self.last = first + 10, time.perf_counter()
        self.display, self.bar = contextlib.ExitStack(), None

    def __enter__(self):
        if self.shown and sys.stderr.isatty():
            self.bar = self.display.enter_context(_display())
            self.task = self.bar.add_task(
                "step", total=self.steps, completed=self.first, text="first step …"
            )
        return self

    def __exit__(self, *_):
        self.display.close()

    def advance(self, step: int):
        """One step is done. The first is not timed: it compiles."""
        now = time.perf_counter()
        if self.bar:
            self.bar.update(self.task, completed=step)
        if self.start is None:
            self.start = (step, now)
            if now - self.last >= LONG:
                self._line(step, f"{duration(now - self.last)} for the first, which compiles")
        elif now - self.last >= 6 * LONG:
            self._line(step, self._pace(step))

    @contextlib.contextmanager
    def validating(self, step: int):
        """A validation, whose time no rate counts."""
        began = time.perf_counter()
        yield
        self.validations.append(time.perf_counter() - began)
        if self.start:
            self.start = (self.start[0], self.start[1] + self.validations[-1])
        if self.validations[-1] >= LONG:
            self._line(step, f"validation took {duration(self.validations[-1])}")

    def show(self, step: int, terms: dict[str, float]):
        """New mean terms of the loss."""
        terms = " ".join(f"{name} {value:.4g}" for name, value in terms.items())
        if self.bar:
            self.bar.update(self.task, text=f"{self._rate(step):.2f} steps/s  {terms}")
        elif step >= min(self.next_line, self.steps):
            self._line(step, f"{self._pace(step)}  {terms}")
            self.next_line = step + max(1, self.steps // 10)

    def seconds_left(self, step: int) -> float | None:
        """Of the steps to come and their validations; `None` as long as no step was timed."""
        if not (rate := self._rate(step)):
            return None
        left = (self.steps - step) / rate
        if self.every and self.validations and step < self.steps:
            to_come = self.steps // self.every - step // self.every + (self.steps % self.every > 0)
            left += to_come * sum(self.validations) / len(self.validations)
        return left

    def _rate(self, step):
        done = step - self.start[0]
        return done / (time.perf_counter() - self.start[1]) if done else 0.0

    def _pace(self, step):
        left = self.seconds_left(step)
        return f"{self._rate(step):.2f} steps/s  {'?' if left is None else duration(left)} left"

    def _line(self, step, text):
        if self.shown and not self.bar:
            print(f"step {step}/{self.steps}  {text}", file=sys.stderr, flush=True)
            self.last = time.perf_counter()


def peak_memory() -> int:
    """The most memory that this process has held so far, in bytes; 0 where nothing tells it."""
    # On Linux the peak that getrusage tells may be that of the process which started this one.
    status = Path("/proc/self/status")
    if sys.platform == "linux" and status.exists():
        if peak := re.search(r"VmHWM:\s*(\d+) kB", status.read_text()):
            return 1024 * int(peak[1])
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
