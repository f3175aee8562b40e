"""The plan: every head on the device that is asked for, which of them to take, and where sampling stops paying."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from topoface.errors import UserError
from topoface.planning.backbone import BackboneCost
from topoface.planning.devices import DEVICES, Device
from topoface.planning.heads import EXPLAINED
from topoface.planning.probe import this_device
from topoface.planning.setting import HeadName, Setting
from topoface.planning.step import HeadPlan, planned, refusal, traced

_WORTH_IT = 0.05
_MOST_DEVICES = 2**16
_IN_TURN: tuple[HeadName, ...] = ("chunked", "chunked_fused", "partial_fc", "codes")
_FREE = 0.1
"""Of the memory, for libraries and fragments."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What :func:`make_plan` found.

    Attributes:
        setting: that was asked.
        device: with the memory and link that the setting names.
        backbone: its cost.
        heads: by name; without those that training would refuse.
        refused: why it would, by name.
        recommended: the exact softmax that fits, else the sampled one, else codes; None where nothing fits.
        advice: sentences.
    """

    setting: Setting
    device: Device
    backbone: BackboneCost
    heads: Mapping[HeadName, HeadPlan]
    refused: Mapping[HeadName, UserError]
    recommended: HeadName | None
    advice: tuple[str, ...]

    @property
    def room(self) -> float:
        """Bytes that a run may take."""
        return (1 - _FREE) * self.device.memory_gib * 2**30

    def fits(self, name: HeadName) -> bool:
        """Whether training takes that head, and it leaves a tenth of the memory for libraries and fragments."""
        return name in self.heads and self.heads[name].peak <= self.room


def make_plan(setting: Setting, device: Device | None = None) -> Plan:
    """Plan a run.

    Args:
        setting: what is asked.
        device: its rates; by default those of the name in the setting.

    Raises:
        UserError: there is no such backbone, or training would refuse the head that is asked for.
    """
    refused = {name: error for name in EXPLAINED if (error := refusal(name, setting))}
    if setting.head in refused:
        raise refused[setting.head]
    device = device or (this_device() if setting.device == "this" else DEVICES[setting.device])
    device = dataclasses.replace(
        device,
        memory_gib=setting.memory_gib or device.memory_gib,
        link_gb_s=setting.link_gb_s or device.link_gb_s,
    )
    backbone = traced(setting)
    heads = {name: planned(name, setting, device, backbone) for name in EXPLAINED if name not in refused}
    plan = Plan(
        setting=setting,
        device=device,
        backbone=backbone,
        heads=heads,
        refused=refused,
        recommended=None,
        advice=(),
    )
    fitting = [name for name in _IN_TURN if plan.fits(name)]
    plan = dataclasses.replace(plan, recommended=fitting[0] if fitting else None)
    return dataclasses.replace(plan, advice=(*_on_memory(plan), *_on_sampling(plan), *_on_refusals(plan)))


# --- advice ---------------------------------------------------------------------------------------------


def _on_memory(plan: Plan) -> list[str]:
    room, chosen = f"{plan.device.memory_gib:.3g} GiB", plan.recommended
    if chosen == "chunked":
        return [f"Take chunked: the exact softmax fits into {room}, and with it nothing is lost."]
    if chosen == "chunked_fused":
        return [
            f"Take chunked_fused: without SGD in the blocks the gradient of the centers does not fit into {room}."
        ]
    exact: HeadName = "chunked" if "chunked_fused" in plan.refused else "chunked_fused"
    ways = [*_with_less(exact, plan), *_with_more_devices(exact, plan)]
    said = [
        {
            "partial_fc": f"Take partial_fc: no exact softmax fits into {room}.",
            "codes": f"Of our heads codes alone fit into {room}.",
        }.get(chosen or "", f"No head fits into {room} beside this backbone and batch.")
    ]
    if ways:
        said.append(f"The exact softmax fits {', or '.join(ways)}.")
    else:
        said.append(
            f"The exact softmax fits on no number of devices up to {_MOST_DEVICES:,}, {plan.setting.micro_batch} images at once on each."
        )
        said += [f"Codes fit {way}." for way in (_with_less("codes", plan) if chosen is None else [])]
    return said


def _with_less(name: HeadName, plan: Plan) -> list[str]:
    """The first of blocks that run twice, micro-batches, and both, with which that head fits; none if there is none."""
    asked = plan.setting
    if plan.heads[name].least > plan.room:
        return []
    twice = [] if asked.recompute else [{"recompute": True}]
    parts = [asked.accumulation * 2**e for e in range(1, 6)]
    smaller = [{"accumulation": k} for k in parts if asked.batch % k == 0 and asked.batch >= 2 * k]
    both = [{**twice[0], **each} for each in smaller] if twice else []
    for changes in (*twice, *smaller, *both):
        setting = dataclasses.replace(asked, **changes)
        head: HeadName = "chunked" if refusal(name, setting) else name
        peak = planned(head, setting, plan.device, traced(setting)).peak
        if peak <= plan.room:
            words = " ".join(f"{key}={str(value).lower()}" for key, value in changes.items())
            return [f"with {words} (head={head}, {peak / 2**30:,.1f} GiB)"]
    return []


def _with_more_devices(name: HeadName, plan: Plan) -> list[str]:
    """The least power of two of devices on which that head fits, at the same batch each; none if there is none."""
    devices = plan.setting.gpus
    while (devices := 2 * devices) <= _MOST_DEVICES:
        setting = dataclasses.replace(plan.setting, gpus=devices)
        if planned(name, setting, plan.device, plan.backbone).peak <= plan.room:
            return [f"from {devices:,} devices on"]
    return []


def _on_sampling(plan: Plan) -> list[str]:
    """What sampling saves of a step here, and where it stops to."""
    if "partial_fc" in plan.refused:
        return []
    full: HeadName = "chunked" if "chunked_fused" in plan.refused else "chunked_fused"

    def saved(setting: Setting) -> float:
        exact, sampled = (
            planned(name, setting, plan.device, plan.backbone).compute_s for name in (full, "partial_fc")
        )
        return 1 - sampled / exact

    here, freed = saved(plan.setting), plan.heads[full].peak - plan.heads["partial_fc"].peak
    memory = f"{freed / 2**30:.1f} GiB" if freed > 0.05 * 2**30 else "no memory"
    said = [
        f"Sampling: partial_fc at {plan.setting.rate:g} saves {max(here, 0):.0%} of the work of a step, and {memory}, beside {full}."
    ]
    least = _first(
        lambda count: saved(dataclasses.replace(plan.setting, identities=round(count))) >= _WORTH_IT,
        2.0,
        1e10,
    )
    if least is not None:
        said.append(
            f"Below about {_two_digits(least):,} identities that is less than {_WORTH_IT:.0%} of the work here."
        )
    if here > 0:
        even = _first(lambda rate: saved(dataclasses.replace(plan.setting, rate=rate)) <= 0, 1e-4, 1.0)
        said.append(
            "It saves work at every rate below 1."
            if even is None or even > 0.99
            else f"From a rate of about {even:.2f} on it saves nothing."
        )
    return said


def _on_refusals(plan: Plan) -> list[str]:
    """Why training would not take the other heads."""
    by_reason: dict[str, list[str]] = {}
    for name, error in plan.refused.items():
        by_reason.setdefault(str(error), []).append(name)
    return [f"No {' and no '.join(names)}: {reason}." for reason, names in by_reason.items()]


def _first(holds: Callable[[float], bool], low: float, high: float) -> float | None:
    """Where a condition begins to hold between two positive numbers, to 2 %; None where it does not."""
    if not holds(high):
        return None
    while high > 1.02 * low:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _two_digits(value: float) -> int:
    return int(float(f"{value:.1e}"))
