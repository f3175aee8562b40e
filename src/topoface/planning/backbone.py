"""What one training pass of a backbone costs, read off the network itself: run on tensors without storage, nothing is computed.

Every registered backbone and every setting of it is right this way, with no table to keep.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from topoface.models.embedding import EmbeddingModel
from topoface.models.registry import configure, spec_of
from topoface.planning.watch import Operation, Watch, saved_bytes, storage_of


@dataclass(frozen=True, kw_only=True)
class BackboneCost:
    """Of forward and backward at one batch size, on one device.

    Attributes:
        parameters: trained numbers.
        buffer_bytes: of what is not trained: running statistics.
        saved_bytes: activations: what autograd keeps from forward to backward.
        peak_bytes: the most that is alive at once beside the parameters: activations, temporaries, and gradients, those of an earlier
            micro-batch too.
        operations: in order.
        normalised_channels: of each batch normalisation.
    """

    parameters: int
    buffer_bytes: int
    saved_bytes: int
    peak_bytes: int
    operations: tuple[Operation, ...]
    normalised_channels: tuple[int, ...]

    @property
    def flops(self) -> float:
        """Forward and backward."""
        return sum(operation.flops for operation in self.operations)


def backbone_cost(
    name: str,
    *,
    dimension: int,
    batch: int,
    precision: str,
    recompute: bool = False,
    accumulates: bool = False,
) -> BackboneCost:
    """Trace a registered backbone.

    Args:
        name: see `topoface.models.registry.MODELS`.
        dimension: D.
        batch: images that pass at once.
        precision: fp32 or bf16.
        recompute: activation checkpointing.
        accumulates: whether gradients of an earlier micro-batch are there already.

    Raises:
        UserError: there is no such model, or no such width.
    """
    config = configure(name, {"dimension": dimension})
    with FakeTensorMode():
        model = EmbeddingModel(config.build(), spec_of(config), name=name, config=config)
        model.precision = precision
        model.set_recompute(recompute)
        size = model.spec.image_size
        images = torch.empty(batch, 3, size, size, dtype=torch.uint8)
        trained = [p for p in model.parameters() if p.requires_grad]
        if accumulates:
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in trained if p.grad is not None]
        kept = {storage_of(t) for t in (*model.parameters(), *model.buffers(), *gradients)}
        watch = Watch(kept)
        with watch:
            with saved_bytes(kept) as saved:
                embeddings = model(images)
            found = saved[0]
            embeddings.sum().backward()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return BackboneCost(
        parameters=sum(p.numel() for p in trained),
        buffer_bytes=sum(b.numel() * b.element_size() for b in model.buffers()),
        saved_bytes=found,
        peak_bytes=watch.peak + sum(g.nbytes for g in gradients),
        operations=tuple(watch.operations),
        normalised_channels=tuple(norm.num_features for norm in norms),
    )
