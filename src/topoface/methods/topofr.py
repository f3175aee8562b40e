"""TopoFR (arXiv 2410.10587): the latent space keeps the H0 persistence of the input space; hard samples weigh more.

Three parts, each with its switch: RSP perturbs some images, ISA aligns the two trees (RSP + ISA = PTSA in
the paper), SDE weighs each sample by how hard and how wrong its prediction is. ``PRESETS`` holds the paper's
and the release's settings; the defaults are ours (docs/methods/topofr.md says why).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from topoface.data.batch import Batch
from topoface.errors import UserError
from topoface.functional.alignment import measured_points, random_trees, structure_loss
from topoface.functional.collectives import gather_rows, mean_over_ranks, own_rows, world_size
from topoface.functional.damage import damage_score
from topoface.functional.distances import pixel_distances, pixel_squared_distances, squared_distances
from topoface.functional.draws import SampleDraws
from topoface.functional.mixture import fit_mixture, posterior, update_mixture
from topoface.functional.persistence import h0_edges, tree_overlap
from topoface.functional.perturbation import DRAWS, perturb_structure
from topoface.heads.head import ClassStatistics, StatisticsRequest
from topoface.methods.method import Method, RunFacts, StepState
from topoface.methods.topofr_settings import PRESETS, Alignment, Damage, Perturbation

LOGGED_SAMPLES = 5  # hardest samples of a batch that are named in the log
RATIO_EVERY = 50  # steps between measurements of the two gradients in alpha_mode ratio
RATIO_MEMORY = 0.7  # of their running averages, per measurement
RATIO_BOUNDS = (1e-4, 1e4)
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
        self._view: Tensor | None = None
        self._weight: Tensor | None = None
        self._logged: dict[str, Tensor] = {}
        self._trees: tuple[Tensor, Tensor] | None = None

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
            not self.isa.active
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
        # one weight for all micro-batches of a step: the first one measures
        draws = state.batch.draws
        if state.step % RATIO_EVERY == 0 and draws.start < world_size() * (draws.stop - draws.start):
            self._measure_gradients(state, loss)
        alpha = self._alpha(state.step)
        self._trees = (edges, measured_points(latents.detach(), self.isa.latent))
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
        """The figures of section 9 for the last step; the tree overlap is worked out here, when it is read."""
        values: dict[str, Tensor | float] = dict(self._logged)
        if self._trees is not None:
            source_edges, latents = self._trees
            latent_edges = h0_edges(squared_distances(latents))
            values["tree_overlap"] = tree_overlap(source_edges, latent_edges, len(latents))
        return values
