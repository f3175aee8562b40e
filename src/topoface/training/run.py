"""Everything a run is made of, built from its recipe, and the state that a resume needs."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

import topoface
from topoface.data import IdentityBalancedOrder, Loader, Source, UniformOrder, open_source
from topoface.errors import UserError
from topoface.functional.collectives import rank, world_size
from topoface.functional.draws import generator
from topoface.methods.method import RunFacts, with_hook
from topoface.models import EmbeddingModel, build_model
from topoface.models.batchnorm import synchronise_batchnorm
from topoface.recipe import Recipe
from topoface.recipe.components import build
from topoface.training.distributed import replicate
from topoface.training.optimizer import build_optimizer
from topoface.training.step import Hooks


@dataclass(kw_only=True)
class Run:
    """A recipe come to life. ``step`` counts finished optimizer steps.

    ``replicated_model`` and ``replicated_head`` average gradients over the ranks; with one process they
    are ``model`` and ``head`` themselves.
    """

    recipe: Recipe
    device: torch.device
    source: Source
    model: EmbeddingModel
    head: nn.Module
    methods: nn.ModuleList
    hooks: Hooks
    optimizer: Optimizer
    loader: Loader
    total_steps: int
    steps_per_epoch: float
    replicated_model: nn.Module
    replicated_head: nn.Module
    step: int = 0

    def identity(self) -> dict[str, Any]:
        """What must be the same for a resume: the recipe but for its conveniences, and the data."""
        recipe = asdict(self.recipe)
        for convenience in ("run_dir", "evaluation"):
            del recipe[convenience]
        for convenience in ("device", "checkpoint_every", "keep_last", "log_every", "tensorboard"):
            del recipe["training"][convenience]
        for convenience in ("train", "threads"):
            del recipe["data"][convenience]
        del recipe["model"]["recompute"]
        data = {
            "identities": self.source.identities,
            "images": len(self.source),
            "fingerprint": self.source.fingerprint(),
        }
        return {"recipe": recipe, "data": data}


def build_run(recipe: Recipe, device: torch.device) -> Run:
    """Open the data and build model, head, methods and optimizer.

    Raises:
        UserError: anything in the recipe or the data that cannot work, before the first step.
    """
    seed = recipe.training.seed
    source = open_source(recipe.data.train)
    order = _order(recipe, source)
    model = build_fresh_model(recipe).to(device)
    if world_size() > 1 and recipe.model.sync_batchnorm:
        synchronise_batchnorm(model)
    head = build(recipe.head, "head", recipe.model.dimension, source.identities, seed=seed).to(device)
    if hasattr(head, "connect"):
        head.connect(source)
    if hasattr(head, "adopt"):
        head.adopt(recipe.optimizer, recipe.training.accumulation)
    facts = RunFacts(
        num_classes=source.identities,
        num_images=len(source),
        source_fingerprint=source.fingerprint(),
        embedding_dim=recipe.model.dimension,
        steps_per_epoch=order.steps_per_epoch,
        trainable_embedding_scale=recipe.model.trainable_scale,
        logit_scale=getattr(head, "scale", None),
        margin_room=getattr(head, "margin_room", None),
        has_class_centers=getattr(head, "has_class_centers", False),
        model=model,
    )
    methods = nn.ModuleList(
        [build(method, f"methods.{index}", facts) for index, method in enumerate(recipe.methods)]
    ).to(device)
    for method in with_hook(methods, "connect"):
        method.connect(source)
    optimizer = build_optimizer(recipe.optimizer, decayed=[model, head], undecayed=methods)
    loader = Loader(
        source,
        order,
        seed=seed,
        rank=rank(),
        world_size=world_size(),
        accumulation=recipe.training.accumulation,
        flip=recipe.data.flip,
        prepare=[
            *([head.prepare] if hasattr(head, "prepare") else []),
            *(method.prepare for method in with_hook(methods, "prepare")),
        ],
        threads=recipe.data.threads,
    )
    if recipe.model.compile:
        model.backbone.compile()
    if batch_share(recipe) < 2:
        raise UserError(
            "leaves one image to each process and micro-batch",
            "training.batch_size",
            "batch normalisation needs two: enlarge it",
        )
    total_steps = recipe.training.steps or round(recipe.training.epochs * order.steps_per_epoch)
    return Run(
        recipe=recipe,
        device=device,
        source=source,
        model=model,
        head=head,
        methods=methods,
        hooks=Hooks.of(methods),
        optimizer=optimizer,
        loader=loader,
        total_steps=max(total_steps, 1),
        steps_per_epoch=order.steps_per_epoch,
        replicated_model=replicate(model, device),
        replicated_head=replicate(head, device),
    )


def batch_share(recipe: Recipe) -> int:
    """Images of one micro-batch on one process."""
    return recipe.training.batch_size // (world_size() * recipe.training.accumulation)


def build_fresh_model(recipe: Recipe) -> EmbeddingModel:
    """The untrained model of a recipe: a pure function of it."""
    model = build_model(
        recipe.model.name,
        dimension=recipe.model.dimension,
        dropout=recipe.model.dropout,
        trainable_scale=recipe.model.trainable_scale,
        seed=recipe.training.seed,
    )
    model.precision = recipe.model.precision
    model.set_channels_last(recipe.model.channels_last)
    model.set_recompute(recipe.model.recompute)
    return model


def _order(recipe: Recipe, source: Source) -> UniformOrder | IdentityBalancedOrder:
    seed, batch_size = recipe.training.seed, recipe.training.batch_size
    if recipe.data.sampling == "uniform":
        return UniformOrder(len(source), batch_size, seed)
    per_identity = recipe.data.images_per_identity
    if batch_size % per_identity:
        raise UserError(
            f"is {batch_size}, no multiple of data.images_per_identity = {per_identity}",
            "training.batch_size",
            "make it P x K for identity-balanced batches",
        )
    return IdentityBalancedOrder(source.labels, batch_size // per_identity, per_identity, seed)


@contextmanager
def step_randomness(run: Run) -> Iterator[None]:
    """Dropout draws from torch's global generator: give it a state that depends on the step alone, and take it back.

    Dropout masks are the one random number that differs between one process and several.
    """
    if run.recipe.model.dropout == 0:
        yield
        return
    devices = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        stream = generator(run.recipe.training.seed, "dropout", run.step, rank())
        torch.manual_seed(int(stream.integers(2**63)))
        yield


def versions() -> dict[str, str]:
    """What the run was made with."""
    return {
        "topoface": topoface.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
