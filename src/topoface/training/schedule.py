"""The learning rate as a pure function of the step, so that a resumed run needs no state for it."""

import math

from topoface.recipe import ScheduleConfig


def learning_rate(
    schedule: ScheduleConfig, *, peak: float, step: int, total_steps: int, steps_per_epoch: float
) -> float:
    """Learning rate of optimizer step ``step`` (from 0) of ``total_steps``.

    The warm-up rises linearly to the peak; its first step is not 0. After it, ``polynomial`` is
    ``(1 - t)^power`` (arcface_torch: power 2), ``cosine`` is half a cosine to 0, t running from 0 to 1.
    """
    warmup = min(round(schedule.warmup_epochs * steps_per_epoch), total_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(total_steps - warmup, 1)
    if schedule.name == "constant":
        return peak
    if schedule.name == "polynomial":
        return float(peak * (1 - progress) ** schedule.power)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
