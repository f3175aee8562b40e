"""TopoFR (arXiv 2410.10587): the latent space keeps the H0 persistence of the input space; hard samples weigh more.

Three parts, each with its switch: RSP perturbs some images, ISA aligns the two trees (RSP + ISA = PTSA in
the paper), SDE weighs each sample by how hard and how wrong its prediction is. ``PRESETS`` holds the paper's
and the release's settings; the defaults are ours (docs/methods/topofr.md says why).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from topoface.data.batch import Batch
from topoface.errors import UserError
from topoface.functional.alignment import random_trees, structure_loss, structure_report
from topoface.functional.collectives import (
    gather_rows,
    max_over_ranks,
    mean_over_ranks,
    own_rows,
    world_size,
)
from topoface.functional.damage import damage_score
from topoface.functional.directions import unit_rows
from topoface.functional.distances import pixel_distances, pixel_squared_distances, squared_distances
from topoface.functional.draws import SampleDraws
from topoface.functional.mixture import fit_mixture, posterior, update_mixture
from topoface.functional.persistence import h0_edges
from topoface.functional.perturbation import DRAWS, perturb_structure
from topoface.functional.source_spaces import low_resolution, normalised_luminance
from topoface.heads.head import ClassStatistics, StatisticsRequest
from topoface.methods.method import Method, RunFacts, StepState
from topoface.methods.topofr_settings import PRESETS, Alignment, Damage, Perturbation
from topoface.models import EmbeddingModel
from topoface.models.encoder import Encode, open_encoder

LOGGED_SAMPLES = 5  # hardest samples of a batch that are named in the log
RATIO_EVERY = 50  # steps between measurements of the two gradients in alpha_mode ratio
RATIO_MEMORY = 0.7  # of their running averages, per measurement
RATIO_BOUNDS = (1e-4, 1e4)
_POINTS: Mapping[str, Encode] = {
    "low_resolution": lambda images, _: low_resolution(images),
    "luminance": lambda images, _: normalised_luminance(images),
}
RELEASE_LOG_EPSILON = 1e-5  # the release's entropy is -sum g log(g + 1e-5)


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

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

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
        if isa.active and isa.met_by_shrinking and not facts.trainable_embedding_scale:
            raise UserError(
                f"is raw with norm {isa.norm}: it needs embeddings whose scale can move",
                "isa.latent",
                "set model.trainable_scale=true, or isa.norm=mean_edge, or isa.latent=sphere",
            )
        if isa.active and isa.latent == "learned":
            self.log_scale = nn.Parameter(torch.zeros(()))
        # gradient norms, as last measured and running; mixture of the batch before (lag) or running (online); NaN: none yet
        self.gradient_norms: Tensor
        self.measured_norms: Tensor
        self.mixture: Tensor
        self.register_buffer("measured_norms", torch.full((2,), torch.nan, dtype=torch.float64))
        self.register_buffer("gradient_norms", torch.full((2,), torch.nan, dtype=torch.float64))
        self.register_buffer("mixture", torch.full((3,), torch.nan, dtype=torch.float64))
        self._teacher: EmbeddingModel | None = None
        if isa.active and isa.source == "teacher":
            self._teacher = copy.deepcopy(facts.model).requires_grad_(False)
        self._encode: Encode | None = _POINTS.get(isa.source)
        if isa.active and isa.source == "encoder":
            self._encode = open_encoder(isa.encoder, fingerprint=facts.source_fingerprint)
        self._view: Tensor | None = None
        self._weight: Tensor | None = None
        self._logged: dict[str, Tensor] = {}
        self._aligned: tuple[Tensor, Tensor, Tensor] | None = None

    # --- RSP -------------------------------------------------------------------------------------------

    def perturb(self, images: Tensor, draws: SampleDraws) -> Tensor:
        """A float32 view with some images blurred, greyed, colour-jittered or partly erased."""
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
        """Distances and tree of the source space: they depend on the clean images alone, so the loader makes them."""
        if not self.isa.active or self.isa.view == "perturbed" or self.isa.source == "teacher":
            return {}
        gathered = self.isa.scope == "global" and world_size() > 1
        if self._encode is not None:
            points = self._encode(batch.images, batch.indices)
            return {"topofr_points": points} if gathered else self._space(points)
        return {} if gathered else self._space(batch.images)

    def _space(self, points: Tensor) -> dict[str, Tensor]:
        """Distances ``[n, n]`` and tree ``[n - 1, 2]`` of images ``[n, 3, H, W]`` or of points ``[n, d]``."""
        if points.dtype == torch.uint8:
            squared = pixel_squared_distances(points)
        else:
            squared = squared_distances(points.flatten(1))
        if points.dim() == 4:
            distances = pixel_distances(squared, points[0].numel() if len(points) else 1, norm=self.isa.norm)
        else:
            distances = squared.sqrt()
        return {"topofr_distances": distances, "topofr_edges": h0_edges(squared)}

    def _source(self, state: StepState) -> tuple[Tensor, Tensor]:
        """Distances ``[n, n]`` and tree ``[n - 1, 2]`` of the source space."""
        made = state.batch.extras
        if "topofr_distances" not in made:
            points = made.get("topofr_points", state.batch.images)
            if self._teacher is not None:
                points = self._taught(points)
            elif self._view is not None:
                points = self._view
            made = self._space(gather_rows(points) if self.isa.scope == "global" else points)
        return made["topofr_distances"], made["topofr_edges"]

    @torch.no_grad()
    def _taught(self, images: Tensor) -> Tensor:
        """Directions ``[n, D]`` that the teacher gives clean images."""
        assert self._teacher is not None
        return unit_rows(self._teacher.eval()(images))

    def update(self, states: Sequence[StepState]) -> None:  # noqa: ARG002
        """Move the teacher towards the model."""
        if self._teacher is None:
            return
        ours, theirs = self._teacher.state_dict(), self.facts.model.state_dict()
        for name, average in ours.items():
            if average.is_floating_point():
                average.lerp_(theirs[name], 1 - self.isa.teacher_memory)
            else:
                average.copy_(theirs[name])

    def penalties(self, state: StepState) -> Mapping[str, Tensor]:
        """Weight times the alignment loss, outside autocast in float32."""
        if self._weight is not None:
            hardest = self._weight.topk(min(LOGGED_SAMPLES, len(self._weight))).indices
            self._logged["hardest_labels"] = state.batch.labels[hardest]
            self._logged["hardest_indices"] = state.batch.indices[hardest]
        if not self.isa.active:
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
            first, second = random_trees(drawn.uniform("random_trees", 2))
            device = latents.device
            random_edges = first.to(device, non_blocking=True), second.to(device, non_blocking=True)
        loss = structure_loss(
            distances,
            latents,
            form=self.isa.form,
            norm=self.isa.norm,
            latent=self.isa.latent,
            reduction=self.isa.reduction,
            shortest_share=self.isa.shortest_share,
            source_edges=edges,
            random_edges=random_edges,
        )
        # one weight for all micro-batches of a step: the first one measures
        draws = state.batch.draws
        if state.step % RATIO_EVERY == 0 and draws.start < world_size() * (draws.stop - draws.start):
            self._measure_gradients(state, loss)
        alpha = self._alpha(state.step)
        self._aligned = (distances, edges, latents.detach())
        self._logged |= {"alignment": loss.detach(), "alpha": alpha}
        self._logged["gradient_ratio"] = alpha * self.measured_norms[1] / self.measured_norms[0]
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
        self.measured_norms.copy_(norms)
        remembered = RATIO_MEMORY * self.gradient_norms + (1 - RATIO_MEMORY) * norms
        self.gradient_norms.copy_(torch.where(self.gradient_norms.isnan(), norms, remembered))

    def _alpha(self, step: int) -> Tensor:
        """Weight of the alignment at a step, float64."""
        warmup = self.isa.warmup_epochs * self.facts.steps_per_epoch
        rise = min(1.0, step / warmup) if warmup else 1.0
        if self.isa.alpha_mode == "fixed":
            return torch.full_like(self.gradient_norms[0], rise * self.isa.alpha)
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
        """Score omega ``[n]``, None if both factors are off."""
        if not self.sde.active:
            return None
        through_focal, through_hardness = self.sde.gradient != "none", self.sde.gradient == "full"
        entropy = stats.entropy if through_hardness else stats.entropy.detach()
        log_p = stats.target_log_probability
        weight = damage_score(
            self._hardness(entropy) if self.sde.uncertainty else None,
            log_p if through_focal else log_p.detach(),
            temperature=self.sde.temperature,
            focal=self.sde.focal,
            cap=self.sde.cap,
        )
        self._weight = weight.detach()
        self._logged |= {"omega_mean": self._weight.mean(), "omega_max": self._weight.max()}
        if self.sde.normalise == "mean":
            mean = mean_over_ranks(self._weight.mean())
            weight = weight / mean.clamp(min=torch.finfo(weight.dtype).tiny)
        return weight

    def _hardness(self, entropy: Tensor) -> Tensor:
        """Probability h ``[n]`` of being hard, of this rank's samples, from the entropies of all ranks."""
        entropies = entropy.detach()
        if self.sde.fit != "release":  # the release fits each rank's batch alone, and its order matters
            entropies = gather_rows(entropies)
        if self.sde.fit == "online":
            fit, state = update_mixture(entropies, self.mixture, floor=self.sde.floor)
        else:
            fit = fit_mixture(
                entropies,
                fit=self.sde.fit,
                support=self.sde.support,
                num_classes=self.facts.num_classes,
                iterations=self.sde.iterations,
                floor=self.sde.floor,
            )
            state = torch.stack([fit.weight, fit.variance, fit.upper])
        used = torch.stack([fit.weight, fit.variance, fit.upper])
        if self.sde.lag:
            used = torch.where(self.mixture.isnan(), used, self.mixture.to(used.dtype))
        self.mixture.copy_(state)
        if self.sde.fit == "release":
            hardness = fit.hardness
        elif self.sde.lag or entropy.requires_grad:
            hardness = posterior(entropy, *used.to(entropy.dtype))
        else:
            hardness = own_rows(fit.hardness)
        self._logged |= dict(zip(("mixture_pi", "mixture_sigma2", "mixture_omega"), used, strict=True))
        self._logged["hardness_mean"] = hardness.detach().mean()
        return hardness

    # --- log -------------------------------------------------------------------------------------------

    def log_values(self) -> Mapping[str, Tensor | float]:
        """The figures of the last step; those of the two trees are worked out here, when they are read.

        ``mean_latent_edge`` and ``scale_ratio`` are of the raw embeddings: they tell shrinking from alignment.
        ``tree_overlap`` and ``discrepancy_paired`` are of their directions, whatever the form, so that runs can be compared.
        """
        values: dict[str, Tensor | float] = dict(self._logged)
        if "omega_max" in self._logged:
            values["omega_max"] = max_over_ranks(self._logged["omega_max"])
        if self._aligned is not None and len(self._aligned[2]) > 1:
            distances, edges, latents = self._aligned
            raw = structure_report(distances, latents, latent="raw", source_edges=edges)
            turned = structure_report(distances, latents, latent="sphere", source_edges=edges)
            values["tree_overlap"] = turned.overlap
            values["chance_overlap"] = turned.chance_overlap
            values["discrepancy_paired"] = turned.paired
            values["mean_source_edge"] = raw.mean_source_edge
            values["mean_latent_edge"] = raw.mean_latent_edge
            values["scale_ratio"] = raw.scale_ratio
        return values
