"""arcface_torch's own head and loop on a CPU, from a checkout that the user names. Nothing of it is copied: its files are imported."""

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from loader import FieldDataset
from topoface.training.run import Run

MODULES = ("backbones", "losses", "partial_fc_v2")


class TheirLoop:
    """Steps of `train_v2.py`, one a call: its iresnet18, PartialFC_V2 at rate 1, ArcFace margin, clipping and SGD in float32.

    The learning rate is ours at each step, because its schedule needs an older torch. Its loader needs MXNet, so images come through torch's DataLoader with Pillow and its transforms, in this process. It is written for
    GPUs alone: ``cuda()`` of a tensor is made to return the tensor while it runs, and the process group is gloo's of one.

    Args:
        checkout: folder ``recognition/arcface_torch``.
        run: ours, before its first step; weights of backbone and head are taken from it, and its first batch, so that the first losses can be compared.
    """

    def __init__(self, checkout: Path, run: Run) -> None:
        sys.path.insert(0, str(checkout))
        backbones, losses, partial_fc = (importlib.import_module(name) for name in MODULES)
        if not dist.is_initialized():
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        scale, margin = float(run.head.scale), float(run.recipe.head.init_args["margin"])
        width, classes = run.recipe.model.dimension, run.source.identities
        with without_cuda():
            self.backbone = backbones.get_model("r18", dropout=0.0, fp16=False, num_features=width).train()
            self.head = partial_fc.PartialFC_V2(
                losses.CombinedMarginLoss(scale, 1.0, margin, 0.0), width, classes
            )
        self.backbone.load_state_dict(run.model.backbone.state_dict())
        with torch.no_grad():
            (centers,) = (p for p in run.head.parameters() if p.shape == (classes, width))
            self.head.weight.copy_(centers)
        recipe = run.recipe.optimizer
        self.optimizer = torch.optim.SGD(
            [{"params": self.backbone.parameters()}, {"params": self.head.parameters()}],
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.ours = run
        self.batches = self._batches(run)

    def _batches(self, run: Run) -> Iterator[tuple[Tensor, Tensor]]:
        first = run.loader.batch(0)
        yield (first.images.float() - 127.5).contiguous() / 127.5, first.labels.clone()
        faces = FieldDataset(run.source)
        sampler = RandomSampler(faces, replacement=True, num_samples=10**6)
        yield from DataLoader(faces, run.recipe.training.batch_size, sampler=sampler, drop_last=True)

    def __call__(self) -> float:
        """One step; the loss."""
        images, labels = next(self.batches)
        with without_cuda():
            loss = self.head(self.backbone(images), labels)
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = self.ours.optimizer.param_groups[0]["lr"]
        nn.utils.clip_grad_norm_(self.backbone.parameters(), 5)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.item())


@contextmanager
def without_cuda() -> Iterator[None]:
    """Let ``tensor.cuda()`` be the tensor itself, and silence torch on names that have newer ones."""
    real = Tensor.cuda
    Tensor.cuda = lambda tensor, *_, **__: tensor
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Tensor.cuda = real
