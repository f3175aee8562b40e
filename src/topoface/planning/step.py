"""One training step with one head on one device: what it keeps in memory, what it sends, how long it takes."""

from collections.abc import Mapping
from dataclasses import dataclass

from topoface.errors import UserError
from topoface.heads import CosFace
from topoface.planning.backbone import BackboneCost, backbone_cost
from topoface.planning.devices import Device
from topoface.planning.heads import MOMENTS, HeadCost, Sent, head_cost, moved_by_optimizer
from topoface.planning.setting import HeadName, Setting
from topoface.recipe import OptimizerConfig

SLACK = 3.0
"""Between the two figures of a step's time: real steps run at a third of what devices can do, or better."""
_BUCKET = 25 * 2**20


@dataclass(frozen=True, kw_only=True)
class HeadPlan:
    """A run with one head, on one device.

    Attributes:
        cost: of the head.
        standing: bytes between steps, by what they are for.
        memory: these, and what passes.
        peak: bytes at the most; less than the sum of ``memory`` where parts are not there at the same time.
        least: bytes that no smaller batch would spare: while the optimizer runs.
        sent: in a step.
        compute_s: of a step, at the device's rates.
        network_s: of what is sent.
    """

    cost: HeadCost
    standing: Mapping[str, float]
    memory: Mapping[str, float]
    peak: float
    least: float
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


def refusal(name: HeadName, setting: Setting) -> UserError | None:
    """Why training would refuse the head, asked of a small one."""
    fused, rate = name == "chunked_fused", setting.rate if name == "partial_fc" else 1.0
    try:
        CosFace(2, 2, fused=fused, rate=rate).adopt(
            OptimizerConfig(name=setting.optimizer), setting.accumulation
        )
    except UserError as error:
        return error
    return None


def traced(setting: Setting) -> BackboneCost:
    """The backbone that the setting names, on one micro-batch."""
    return backbone_cost(
        setting.backbone,
        dimension=setting.dimension,
        batch=setting.micro_batch,
        precision=setting.precision,
        recompute=setting.recompute,
        accumulates=setting.accumulation > 1,
    )


def planned(name: HeadName, setting: Setting, device: Device, backbone: BackboneCost) -> HeadPlan:
    """A step with the head of that name, beside a backbone that was traced for the setting."""
    head = head_cost(name, setting)
    weights = 4.0 * backbone.parameters
    several = setting.gpus > 1
    standing = {
        "backbone": weights + backbone.buffer_bytes,
        MOMENTS[setting.optimizer].format("the backbone"): setting.moments * weights,
        **({"buckets of its gradients": weights} if several else {}),
        **head.kept,
    }
    gradients_before = weights if setting.accumulation > 1 else 0.0
    least = sum(standing.values()) + weights + head.gradient + head.moving
    peak = sum(standing.values()) + max(
        backbone.saved_bytes + gradients_before + sum(head.passing.values()),
        backbone.peak_bytes + head.gradient,
    )
    sent = (*_sent_for_backbone(setting, backbone), *head.sent)
    on_wire = sum(s.on_the_wire(setting.gpus) for s in sent)
    return HeadPlan(
        cost=head,
        standing=standing,
        memory={
            **standing,
            "activations": float(backbone.saved_bytes),
            "gradients and temporaries of its backward": float(backbone.peak_bytes - backbone.saved_bytes),
            **head.passing,
            **({"copies that the optimizer makes": head.moving} if head.moving else {}),
        },
        peak=max(peak, least),
        least=least,
        sent=sent,
        compute_s=backbone_seconds(backbone, setting, device) + head_seconds(head, device),
        network_s=on_wire / (device.link_gb_s * 1e9) + sum(s.calls for s in sent) * device.latency_us * 1e-6,
    )


def backbone_seconds(backbone: BackboneCost, setting: Setting, device: Device) -> float:
    """Of forward, backward and optimizer: each operation as long as its arithmetic or its memory takes at full rate."""
    rate = {True: device.bf16_tflops * 1e12, False: device.convolution_tflops * 1e12}
    memory = device.memory_gb_s * 1e9
    once = sum(max(o.flops / rate[o.low], o.bytes / memory) for o in backbone.operations)
    return setting.accumulation * once + moved_by_optimizer(setting, 4.0 * backbone.parameters) / memory


def head_seconds(head: HeadCost, device: Device) -> float:
    """Of forward, backward and optimizer."""
    return head.flops / (device.product_tflops * 1e12) + head.traffic / (device.memory_gb_s * 1e9)


def _sent_for_backbone(setting: Setting, backbone: BackboneCost) -> tuple[Sent, ...]:
    if setting.gpus == 1:
        return ()
    weights, norms, passes = 4.0 * backbone.parameters, backbone.normalised_channels, setting.accumulation
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
            bytes=4.0 * passes * sum(2 * channels + 1 for channels in norms),
            calls=passes * len(norms),
        ),
        Sent(
            what="their gradients",
            operation="all_reduce",
            bytes=4.0 * passes * sum(2 * channels for channels in norms),
            calls=passes * len(norms),
        ),
    )
