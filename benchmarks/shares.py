"""Where the CPU time of a training step goes: data, backbone, head, methods, optimizer."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from topoface.training.run import Run

PARTS = ("data", "backbone", "head", "methods", "optimizer")


class Shares:
    """CPU seconds of each part of a run's steps, since the last `clear`.

    The training thread is in one part at a time. Backward goes the way back: hooks on the loss of the head, on what methods gave it and
    on the embeddings tell where it is. What is left of the step (gradient norms, the check that all is finite) counts as the optimizer's.
    """

    def __init__(self, run: Run) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()  # the loader's threads report, too
        self._part, self._since = "optimizer", 0.0
        run.replicated_model.forward = self._during("backbone", run.replicated_model.forward)
        run.replicated_head.forward = self._during("head", self._hooked(run.replicated_head.forward))
        run.optimizer.step = self._during("optimizer", run.optimizer.step)
        for method in run.methods:
            for hook in (
                "perturb",
                "margin_shift",
                "negatives",
                "sample_weight",
                "penalties",
                "update",
                "log_values",
            ):
                setattr(method, hook, self._during("methods", getattr(method, hook)))
        run.loader.batch = self._in_loader("data", run.loader.batch)
        run.loader._extras = self._in_loader("methods", run.loader._extras, instead_of="data")

    def clear(self) -> None:
        """Forget the steps so far."""
        self.seconds.clear()

    def begin_step(self) -> None:
        """Count from here, in the training thread."""
        self._part, self._since = "optimizer", time.thread_time()

    def end_step(self) -> None:
        """Count up to here."""
        self._switch("optimizer")

    def _switch(self, part: str) -> str:
        now, before = time.thread_time(), self._part
        with self._lock:
            self.seconds[before] += now - self._since
        self._part, self._since = part, now
        return before

    def _during(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            before = self._switch(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._switch(before)

        return watched

    def _hooked(self, head: Callable[..., Any]) -> Callable[..., Any]:
        """The head, with the places where backward enters and leaves it marked; before it come the penalties of the methods."""

        def watched(
            embeddings: Tensor, labels: Tensor, shift: Tensor | None, extra: Tensor | None, *rest: Any
        ) -> Any:
            stats = head(embeddings, labels, shift, extra, *rest)
            marks = [(stats.loss, "head"), (shift, "methods"), (extra, "methods"), (embeddings, "backbone")]
            for tensor, part in marks:
                if tensor is not None and tensor.requires_grad:
                    tensor.register_hook(lambda _, part=part: self._switch(part) and None)
            return stats

        return watched

    def _in_loader(
        self, part: str, function: Callable[..., Any], *, instead_of: str | None = None
    ) -> Callable[..., Any]:
        def watched(*args: Any) -> Any:
            start = time.thread_time()
            result = function(*args)
            spent = time.thread_time() - start
            with self._lock:
                self.seconds[part] += spent
                if instead_of is not None:
                    self.seconds[instead_of] -= spent
            return result

        return watched


def watch_backward(shares: list[Shares]) -> Callable[[int], None]:
    """Let backward begin with the methods' part of whichever run is at work; the result says which."""
    plain, at_work = torch.autograd.backward, [0]

    def watched(*args: Any, **kwargs: Any) -> Any:
        return shares[at_work[0]]._during("methods", plain)(*args, **kwargs)

    torch.autograd.backward = watched

    def work_on(index: int) -> None:
        at_work[0] = index

    return work_on
