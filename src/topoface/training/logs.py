"""What a run says while it trains: metrics.jsonl, TensorBoard files and one progress line."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from topoface.errors import missing_extra
from topoface.files import write_text


class MetricSink(Protocol):
    """Something that takes the scalars of a step."""

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Store them."""

    def close(self) -> None:
        """Write out what is still held back."""


class JsonLines:
    """metrics.jsonl: one JSON object a line. A resumed run first drops the lines after its checkpoint."""

    def __init__(self, path: Path, *, resumed_at: int) -> None:
        kept = [line for line in read_metrics(path) if line["step"] < resumed_at] if resumed_at else []
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))  # whole: a kill must not lose it
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append a line and hand it to the system, so that a killed run keeps it."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl; one cut short by a kill, or damaged in another way, is left out."""
    lines: list[dict[str, Any]] = []
    if not path.exists():
        return lines
    for line in path.read_bytes().splitlines():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):  # no JSON, or no UTF-8
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), int | float):
            lines.append(values)
    return lines


class TensorBoard:
    """Event files that TensorBoard reads (extra ``tb``)."""

    def __init__(self, folder: Path, *, resumed_at: int) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise missing_extra("tensorboardX", "tb", "training.tensorboard") from error
        self._writer = SummaryWriter(str(folder), purge_step=resumed_at or None)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write every number, nested ones under a slash."""
        for name, value in values.items():
            if isinstance(value, Mapping):
                self.write(step, {f"{name}/{inner}": inner_value for inner, inner_value in value.items()})
            elif isinstance(value, int | float):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class ProgressLine:
    """One line: bar, images/s, the terms of the loss, time left.

    Args:
        total_steps: of the run.
        shown: whether there is a bar.
        speaks: whether ``say`` prints: on one of several processes.
    """

    def __init__(self, total_steps: int, *, shown: bool, speaks: bool) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("step {task.completed}/{task.total}"),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(stderr=True),
            disable=not shown,
            refresh_per_second=2,
        )
        self._task = self._progress.add_task("train", total=total_steps, figures="")
        self._speaks = speaks

    def __enter__(self) -> "ProgressLine":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, step: int, values: Mapping[str, Any] | None = None) -> None:
        """Move the bar; ``values`` are a line of the log."""
        if values is None:
            self._progress.update(self._task, completed=step)
            return
        terms = " ".join(
            f"{name.removeprefix('loss/')} {value:.3f}"
            for name, value in values.items()
            if name.startswith("loss/")
        )
        figures = f"{values['images_per_s']:.0f} images/s  {terms}"
        self._progress.update(self._task, completed=step, figures=figures)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self._speaks:
            self._progress.console.print(text, highlight=False, soft_wrap=True, markup=False)
