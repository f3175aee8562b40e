"""The plan: every head on the device that is asked for, which of them to take, and where sampling stops paying."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from topoface.planning.backbone import BackboneCost, backbone_cost
from topoface.planning.devices import DEVICES, Device
from topoface.planning.heads import EXPLAINED, HeadCost, Sent, head_cost
from topoface.planning.probe import this_device
from topoface.planning.setting import HeadName, Setting

SLACK = 3.0
"""Between the two figures of a step's time: real steps run at a third of what devices can do, or better."""
_BUCKET = 25 * 2**20
_WORTH_IT = 0.05
_IN_TURN: tuple[HeadName, ...] = ("chunked", "chunked_fused", "codes")


@dataclass(frozen=True, kw_only=True)
class HeadPlan:
    """A run with one head, on one device.

    Attributes:
        cost: of the head.
        memory: bytes by what they are for, the head's with them.
        peak: bytes at the most; less than the sum of ``memory`` where parts are not there at the same time.
        sent: in a step.
        compute_s: of a step, at the device's rates.
        network_s: of what is sent.
    """

    cost: HeadCost
    memory: Mapping[str, float]
    peak: float
    sent: tuple[Sent, ...]
    compute_s: float
    network_s: float

    @property
    def least_s(self) -> float:
        """Of a step, everything at its best rate and the network hidden behind the work."""
        return max(self.compute_s, self.network_s)

    @property
    def most_s(self) -> float:
        """Of a step, everything at a third of the rate and nothing hidden."""
        return SLACK * (self.compute_s + self.network_s)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What :func:`make_plan` found.

    Attributes:
        setting: that was asked.
        device: with the memory and link that the setting names.
        backbone: its cost.
        heads: by name.
        recommended: the exact softmax that fits, else codes; None where nothing fits.
        advice: sentences.
    """

    setting: Setting
    device: Device
    backbone: BackboneCost
    heads: Mapping[HeadName, HeadPlan]
    recommended: HeadName | None
    advice: tuple[str, ...]

    def fits(self, name: HeadName) -> bool:
        """Whether that head leaves a tenth of the memory for libraries and fragments."""
        return self.heads[name].peak <= 0.9 * self.device.memory_gib * 2**30


def make_plan(setting: Setting, device: Device | None = None) -> Plan:
    """Plan a run.

    Args:
        setting: what is asked.
        device: its rates; by default those of the name in the setting.

    Raises:
        UserError: there is no such backbone.
    """
    device = device or (this_device() if setting.device == "this" else DEVICES[setting.device])
    device = dataclasses.replace(
        device,
        memory_gib=setting.memory_gib or device.memory_gib,
        link_gb_s=setting.link_gb_s or device.link_gb_s,
    )
    backbone = backbone_cost(
        setting.backbone, dimension=setting.dimension, batch=setting.batch, precision=setting.precision
    )
    heads = {name: _planned(name, setting, device, backbone) for name in EXPLAINED}
    plan = Plan(setting=setting, device=device, backbone=backbone, heads=heads, recommended=None, advice=())
    fitting = [name for name in _IN_TURN if plan.fits(name)]
    advice = (*_on_memory(plan, fitting), *_on_sampling(plan))
    return dataclasses.replace(plan, recommended=fitting[0] if fitting else None, advice=advice)


def _planned(name: HeadName, setting: Setting, device: Device, backbone: BackboneCost) -> HeadPlan:
    head = head_cost(name, setting)
    weights = 4.0 * backbone.parameters
    several = setting.gpus > 1
    standing = {
        "backbone": weights + backbone.buffer_bytes,
        "its momentum": weights,
        **({"its buckets of gradients": weights} if several else {}),
        **head.kept,
    }
    rest_of_pass = backbone.peak_bytes - backbone.saved_bytes
    peak = sum(standing.values()) + max(
        backbone.saved_bytes + sum(head.passing.values()), backbone.peak_bytes + head.gradient
    )
    sent = (*_sent_for_backbone(setting, backbone), *head.sent)
    on_wire = sum(s.on_the_wire(setting.gpus) for s in sent)
    return HeadPlan(
        cost=head,
        memory={
            **standing,
            "activations": float(backbone.saved_bytes),
            "gradients and temporaries of its backward": float(rest_of_pass),
            **head.passing,
        },
        peak=peak,
        sent=sent,
        compute_s=backbone_seconds(backbone, device) + head_seconds(head, device),
        network_s=on_wire / (device.link_gb_s * 1e9) + sum(s.calls for s in sent) * device.latency_us * 1e-6,
    )


def backbone_seconds(backbone: BackboneCost, device: Device) -> float:
    """Of forward, backward and SGD: each operation as long as its arithmetic or its memory takes at full rate."""
    rate = {True: device.bf16_tflops * 1e12, False: device.convolution_tflops * 1e12}
    memory = device.memory_gb_s * 1e9
    passes = sum(max(o.flops / rate[o.low], o.bytes / memory) for o in backbone.operations)
    return passes + 5 * 4.0 * backbone.parameters / memory


def head_seconds(head: HeadCost, device: Device) -> float:
    """Of forward, backward and SGD."""
    return head.flops / (device.product_tflops * 1e12) + head.traffic / (device.memory_gb_s * 1e9)


def _sent_for_backbone(setting: Setting, backbone: BackboneCost) -> tuple[Sent, ...]:
    if setting.gpus == 1:
        return ()
    weights, norms = 4.0 * backbone.parameters, backbone.normalised_channels
    gradients = Sent(
        what="gradients of the backbone",
        operation="all_reduce",
        bytes=weights,
        calls=1 + int(weights // _BUCKET),
    )
    statistics = Sent(what="running statistics", operation="broadcast", bytes=float(backbone.buffer_bytes))
    if not setting.sync_batchnorm:
        return gradients, statistics
    return (
        gradients,
        statistics,
        Sent(
            what="batch statistics",
            operation="all_gather",
            bytes=4.0 * sum(2 * channels + 1 for channels in norms),
            calls=len(norms),
        ),
        Sent(
            what="their gradients",
            operation="all_reduce",
            bytes=4.0 * sum(2 * c for c in norms),
            calls=len(norms),
        ),
    )


# --- advice ---------------------------------------------------------------------------------------------


def _on_memory(plan: Plan, fitting: list[HeadName]) -> list[str]:
    room = f"{plan.device.memory_gib:,.0f} GiB"
    if fitting[:1] == ["chunked"]:
        return [f"Take chunked: the exact softmax fits into {room}, and with it nothing is lost."]
    needed = _devices_for("chunked_fused", plan)
    exact = (
        f"the exact softmax fits from {needed} devices on"
        if needed
        else "no number of devices up to 65,536 is enough"
    )
    if fitting[:1] == ["chunked_fused"]:
        return [
            f"Take chunked_fused: without SGD in the blocks the gradient of the centers does not fit into {room}."
        ]
    if fitting:
        return [
            f"Class centers with momentum do not fit into {room}; {exact}. Sampling needs the same memory: codes do not."
        ]
    return [
        f"No head fits into {room} beside this backbone and batch: take a smaller batch; {exact} with this one."
    ]


def _devices_for(name: HeadName, plan: Plan) -> int | None:
    """Least power of two of devices on which that head fits, at the same batch each."""
    for exponent in range(17):
        setting = dataclasses.replace(plan.setting, gpus=2**exponent)
        found = _planned(name, setting, plan.device, plan.backbone)
        if found.peak <= 0.9 * plan.device.memory_gib * 2**30:
            return setting.gpus
    return None


def _on_sampling(plan: Plan) -> list[str]:
    """What sampling saves of a step here, and where it stops to."""

    def saved(setting: Setting = plan.setting) -> float:
        full, sampled = (
            _planned(name, setting, plan.device, plan.backbone).compute_s
            for name in ("chunked_fused", "partial_fc")
        )
        return 1 - sampled / full

    rate, here = plan.setting.rate, saved()
    said = [
        f"partial_fc at {rate:g} saves {max(here, 0):.0%} of the work of a step, and no memory beside chunked_fused."
    ]
    least = _first(
        lambda c: saved(dataclasses.replace(plan.setting, identities=round(c))) >= _WORTH_IT, 2.0, 1e10
    )
    if least is not None:
        said.append(f"Below about {_two_digits(least):,} identities it saves less than {_WORTH_IT:.0%} here.")
    if here > 0:
        even = _first(lambda r: saved(dataclasses.replace(plan.setting, rate=r)) <= 0, 1e-4, 1.0)
        said.append(
            f"It costs as much as the exact softmax at a rate of about {even:.2f}."
            if even is not None
            else "It is cheaper at every rate."
        )
    return said


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
