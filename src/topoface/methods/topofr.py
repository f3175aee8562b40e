"""TopoFR (arXiv 2410.10587): the latent space keeps the H0 persistence of the input space; hard samples weigh more.

Three parts, each with its switch: RSP perturbs some images, ISA aligns the two trees (RSP + ISA = PTSA in
the paper), SDE weighs each sample by how hard and how wrong its prediction is. ``PRESETS`` holds the paper's
and the release's settings; the defaults are ours (docs/methods/topofr.md says why).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from topoface.data.batch import Batch
from topoface.errors import UserError
from topoface.functional.alignment import measured_points, random_trees, structure_loss
from topoface.functional.collectives import gather_rows, mean_over_ranks, own_rows, world_size
from topoface.functional.damage import damage_score
from topoface.functional.distances import pixel_distances, pixel_squared_distances, squared_distances
from topoface.functional.draws import SampleDraws
from topoface.functional.mixture import fit_mixture, posterior
from topoface.functional.persistence import h0_edges, tree_overlap
from topoface.functional.perturbation import (
    DRAWS,
    OPERATIONS,
    Operation,
    PerturbationRanges,
    perturb_structure,
)
from topoface.heads.head import ClassStatistics, StatisticsRequest
from topoface.methods.method import Method, RunFacts, StepState

RATIO_EVERY = 50  # steps between measurements of the two gradients in alpha_mode ratio
RATIO_MEMORY = 0.7  # of their running averages, per measurement
RATIO_BOUNDS = (1e-4, 1e4)
RELEASE_LOG_EPSILON = 1e-5  # the release's entropy is -sum g log(g + 1e-5)


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """RSP: random structure perturbation of the network's view; the clean images are never touched."""

    xi: float = 0.2
    """Probability that an image is perturbed, by one of four operations drawn uniformly; 0 switches RSP off."""
    operations: tuple[Operation, ...] = OPERATIONS
    """What is drawn from."""
    ranges: PerturbationRanges = field(default_factory=PerturbationRanges)
    """Strength of the operations; the released ones."""


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """ISA: invariant structure alignment."""

    form: Literal["paired", "sorted", "wasserstein1", "bottleneck", "random"] = "paired"
    """What is compared: the edges of both trees (paper, equation 2), sorted lengths (release), other distances
    of the two diagrams, or random edges (control)."""
    reduction: Literal["sum", "batch", "edges"] = "edges"
    """Divide the sum by 1, n or n - 1."""
    norm: Literal["none", "pixel_range", "mean_edge", "max"] = "mean_edge"
    """How lengths are scaled."""
    latent: Literal["raw", "sphere", "learned"] = "sphere"
    """Which vectors are measured."""
    scope: Literal["rank", "global"] = "rank"
    """Trees of each process's batch or of the global one."""
    view: Literal["clean", "perturbed"] = "clean"
    """Source images: clean, or the network's own view (the release before November 2024)."""
    alpha: float = 0.1
    """Weight in alpha_mode fixed; 0 switches ISA off."""
    alpha_mode: Literal["fixed", "ratio"] = "ratio"
    """ratio: the weight that makes the gradient at the embeddings ``ratio`` times the classifier's."""
    ratio: float = 0.05
    """Share of gradient in alpha_mode ratio; 0 switches ISA off."""
    warmup_epochs: float = 1.0
    """The weight rises linearly from 0 over these epochs."""


@dataclass(frozen=True, kw_only=True)
class Damage:
    """SDE: structure damage estimation, omega = (1 + h)^lambda * (1 - p)."""

    uncertainty: bool = True
    """Factor (1 + h)^lambda, h from a Gaussian-uniform mixture over the entropies."""
    fit: Literal["ml", "moments", "eq7", "release"] = "ml"
    """How the mixture is fitted; eq7 is the paper's, release the code's."""
    support: Literal["batch", "logC"] = "batch"
    """Upper end of the uniform part: largest entropy of the batch, or log of the number of identities."""
    iterations: int = 50
    """Of expectation maximisation."""
    floor: float = 0.01
    """Smallest deviation of the easy part in nats; keeps "hard" absolute."""
    lag: Literal[0, 1] = 0
    """1: weigh with the mixture of the step before."""
    entropy_from: Literal["margin", "plain"] = "margin"
    """Entropy and probability of the logits with or without margin."""
    focal: Literal["on", "off", "gate"] = "on"
    """Factor 1 - p; gate: 0 where p rounds to 1, which is all the release does."""
    temperature: float = 1.0
    """lambda."""
    gradient: Literal["none", "focal", "full"] = "none"
    """Let the gradient flow through no factor of omega, through 1 - p, or through both."""
    normalise: Literal["none", "mean"] = "none"
    """Divide omega by its batch mean."""
    cap: float | None = None
    """Largest omega."""

    @property
    def active(self) -> bool:
        """Whether there is any weight at all."""
        return self.uncertainty or self.focal != "off"


class TopoFR(Method):
    """TopoFR with its ablation switches.

    Args:
        facts: of the run.
        rsp: random structure perturbation; off with ``xi = 0``.
        isa: invariant structure alignment; off with a weight of 0.
        sde: structure damage estimation; off with ``uncertainty: false`` and ``focal: off``.

    Raises:
        UserError: settings that cannot work together.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "ours": {},
        "paper": {
            "isa": {
                "form": "paired", "reduction": "sum", "norm": "pixel_range", "latent": "raw",
                "alpha_mode": "fixed", "alpha": 0.1, "warmup_epochs": 0.0,
            },
            "sde": {"fit": "eq7", "focal": "on", "gradient": "focal"},
        },
        "release": {
            "isa": {
                "form": "sorted", "reduction": "batch", "norm": "pixel_range", "latent": "raw",
                "alpha_mode": "fixed", "alpha": 0.1, "warmup_epochs": 0.0,
            },
            "sde": {"fit": "release", "focal": "gate", "gradient": "none"},
        },
    }  # fmt: skip

    def __init__(
        self,
        facts: RunFacts,
        *,
        rsp: Perturbation = Perturbation(),
        isa: Alignment = Alignment(),
        sde: Damage = Damage(),
    ) -> None:
        super().__init__(facts)
        self.rsp, self.isa, self.sde = rsp, isa, sde
        weight = isa.alpha if isa.alpha_mode == "fixed" else isa.ratio
        self.aligns = weight > 0
        self._refuse_impossible()
        if self.aligns and isa.latent == "learned":
            self.log_scale = nn.Parameter(torch.zeros(()))
        # running gradient norms of alpha_mode ratio and mixture of the step before (lag); NaN: not measured yet
        self.gradient_norms: Tensor
        self.mixture: Tensor
        self.register_buffer("gradient_norms", torch.full((2,), torch.nan, dtype=torch.float64))
        self.register_buffer("mixture", torch.full((3,), torch.nan, dtype=torch.float64))
        self._view: Tensor | None = None
        self._logged: dict[str, Tensor] = {}
        self._trees: tuple[Tensor, Tensor] | None = None

    def _refuse_impossible(self) -> None:
        where = "methods TopoFR"
        if not 0 <= self.rsp.xi <= 1:
            raise UserError(f"rsp.xi is {self.rsp.xi}", where, "a probability lies in [0, 1]")
        if min(self.isa.alpha, self.isa.ratio, self.isa.warmup_epochs) < 0:
            raise UserError(
                "isa.alpha, isa.ratio or isa.warmup_epochs is negative", where, "give 0 to switch off"
            )
        shrinkable = self.isa.latent == "raw" and self.isa.norm in ("none", "pixel_range")
        if self.aligns and shrinkable and not self.facts.trainable_embedding_scale:
            raise UserError(
                f"isa.latent raw with norm {self.isa.norm} needs embeddings whose scale can move",
                where,
                "set model.trainable_scale=true, or isa.norm=mean_edge, or isa.latent=sphere or learned",
            )
        if self.sde.focal == "gate" and self.sde.gradient != "none":
            raise UserError("sde.focal gate is a step and has no gradient", where, "set sde.gradient=none")
        if self.sde.fit == "release" and (self.sde.gradient == "full" or self.sde.lag):
            raise UserError(
                "sde.fit release is host code without gradient or lag", where, "use another sde.fit"
            )

    # --- RSP -------------------------------------------------------------------------------------------

    def perturb(self, images: Tensor, draws: SampleDraws) -> Tensor:
        """A float32 view with some images blurred, greyed, colour-jittered or partly erased (topofr.md section 3)."""
        if self.rsp.xi == 0:
            return images
        view, operation = perturb_structure(
            images,
            draws.uniform("rsp", DRAWS),
            probability=self.rsp.xi,
            operations=self.rsp.operations,
            ranges=self.rsp.ranges,
        )
        self._logged["perturbed_share"] = (operation >= 0).float().mean()
        if self.isa.view == "perturbed":
            self._view = view
        return view

    # --- ISA -------------------------------------------------------------------------------------------

    def prepare(self, batch: Batch) -> Mapping[str, Tensor]:
        """Distances and tree of the input space: they depend on the clean images alone, so the loader makes them."""
        if (
            not self.aligns
            or self.isa.view == "perturbed"
            or (self.isa.scope == "global" and world_size() > 1)
        ):
            return {}
        squared = pixel_squared_distances(batch.images)
        return {"topofr_distances": self._in_unit(squared, batch.images), "topofr_edges": h0_edges(squared)}

    def _in_unit(self, squared: Tensor, images: Tensor) -> Tensor:
        return pixel_distances(squared, images[0].numel() if len(images) else 1, norm=self.isa.norm)

    def _source(self, state: StepState) -> tuple[Tensor, Tensor]:
        """Distances ``[n, n]`` and tree ``[n - 1, 2]`` of the source space."""
        extras = state.batch.extras
        if "topofr_distances" in extras:
            return extras["topofr_distances"], extras["topofr_edges"]
        images = state.batch.images
        if self.isa.view == "perturbed" and self._view is not None:
            images = self._view
        if self.isa.scope == "global":
            images = gather_rows(images)
        squared = (
            pixel_squared_distances(images)
            if images.dtype == torch.uint8
            else squared_distances(images.flatten(1))
        )
        return self._in_unit(squared, images), h0_edges(squared)

    def penalties(self, state: StepState) -> Mapping[str, Tensor]:
        """Weight times the alignment loss, outside autocast in float32."""
        if not self.aligns:
            return {}
        distances, edges = self._source(state)
        latents = state.embeddings
        if self.isa.latent == "learned":
            latents = latents / self.log_scale.exp()
        if self.isa.scope == "global":
            latents = gather_rows(latents)
        random_edges = None
        if self.isa.form == "random":
            drawn = replace(state.batch.draws, start=0, stop=len(latents))  # alike on all ranks
            random_edges = random_trees(drawn.uniform("random_trees", 2))
        loss = structure_loss(
            distances,
            latents,
            form=self.isa.form,
            norm=self.isa.norm,
            latent=self.isa.latent,
            reduction=self.isa.reduction,
            source_edges=edges,
            random_edges=random_edges,
        )
        if state.step % RATIO_EVERY == 0:
            self._measure_gradients(state, loss)
        alpha = self._alpha(state.step)
        self._trees = (edges, measured_points(latents.detach(), self.isa.latent))
        self._logged |= {"alignment": loss.detach(), "alpha": alpha}
        self._logged["gradient_ratio"] = alpha * self.gradient_norms[1] / self.gradient_norms[0]
        return {"alignment": alpha.to(loss.dtype) * loss}

    def _measure_gradients(self, state: StepState, loss: Tensor) -> None:
        """Norms of dL_class/dZ and dL_alignment/dZ over the global batch, without a pass through the backbone."""
        if len(state.embeddings) < 2:
            return
        squares = []
        for term in (state.class_loss, loss):
            (gradient,) = torch.autograd.grad(term, state.embeddings, retain_graph=True)
            squares.append(gradient.double().square().sum())
        # each rank's loss is a mean over its own rows, so over all ranks a row counts 1 / world_size
        norms = (mean_over_ranks(torch.stack(squares)) / world_size()).sqrt()
        remembered = RATIO_MEMORY * self.gradient_norms + (1 - RATIO_MEMORY) * norms
        self.gradient_norms.copy_(torch.where(self.gradient_norms.isnan(), norms, remembered))

    def _alpha(self, step: int) -> Tensor:
        """Weight of the alignment at a step, float64."""
        warmup = self.isa.warmup_epochs * self.facts.steps_per_epoch
        rise = min(1.0, step / warmup) if warmup else 1.0
        if self.isa.alpha_mode == "fixed":
            return torch.tensor(rise * self.isa.alpha, dtype=torch.float64, device=self.gradient_norms.device)
        wanted = self.isa.ratio * self.gradient_norms[0] / self.gradient_norms[1]
        return rise * wanted.nan_to_num(0.0, posinf=RATIO_BOUNDS[1]).clamp(*RATIO_BOUNDS)

    # --- SDE -------------------------------------------------------------------------------------------

    def statistics_request(self) -> StatisticsRequest:
        """Entropy and target probability as the switches ask for them."""
        return StatisticsRequest(
            margin=self.sde.entropy_from == "margin",
            differentiable=self.sde.gradient != "none",
            log_epsilon=RELEASE_LOG_EPSILON if self.sde.fit == "release" else 0.0,
        )

    def sample_weight(self, stats: ClassStatistics) -> Tensor | None:
        """Score omega ``[n]`` (section 5.3), None if both factors are off."""
        if not self.sde.active:
            return None
        hardness = self._hardness(stats.entropy) if self.sde.uncertainty else None
        weight = damage_score(
            hardness,
            stats.target_log_probability,
            temperature=self.sde.temperature,
            focal=self.sde.focal,
            cap=self.sde.cap,
        )
        if self.sde.normalise == "mean":
            weight = weight / mean_over_ranks(weight.detach().mean()).clamp(
                min=torch.finfo(weight.dtype).tiny
            )
        self._logged |= {"omega_mean": weight.detach().mean(), "omega_max": weight.detach().max()}
        return weight

    def _hardness(self, entropy: Tensor) -> Tensor:
        """Probability h ``[n]`` of being hard, of this rank's samples, from a mixture fitted to the entropies of all ranks."""
        entropies = entropy.detach()
        if self.sde.fit != "release":  # the release fits each rank's batch alone, and its order matters
            entropies = gather_rows(entropies)
        fit = fit_mixture(
            entropies,
            fit=self.sde.fit,
            support=self.sde.support,
            num_classes=self.facts.num_classes,
            iterations=self.sde.iterations,
            floor=self.sde.floor,
        )
        now = torch.stack([fit.weight, fit.variance, fit.upper]).to(self.mixture.dtype)
        used = torch.where(self.mixture.isnan(), now, self.mixture) if self.sde.lag else now
        self.mixture.copy_(now)
        if self.sde.gradient == "full":
            hardness = posterior(entropy, *used.to(entropy.dtype))
        elif self.sde.lag:
            hardness = posterior(entropy.detach(), *used.to(entropy.dtype))
        else:
            hardness = fit.hardness if self.sde.fit == "release" else own_rows(fit.hardness)
        self._logged |= dict(zip(("mixture_pi", "mixture_sigma2", "mixture_omega"), used, strict=True))
        self._logged["hardness_mean"] = hardness.detach().mean()
        return hardness

    # --- log -------------------------------------------------------------------------------------------

    def log_values(self) -> Mapping[str, Tensor | float]:
        """The figures of section 9 for the last step; the tree overlap is worked out here, when it is read."""
        values: dict[str, Tensor | float] = dict(self._logged)
        if self._trees is not None:
            source_edges, latents = self._trees
            latent_edges = h0_edges(squared_distances(latents))
            values["tree_overlap"] = tree_overlap(source_edges, latent_edges, len(latents))
        return values
