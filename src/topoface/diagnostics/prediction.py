"""What a run predicts about its training images, and the weights that TopoFR gives them."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topoface.data import Source
from topoface.diagnostics.opening import progress_bar
from topoface.errors import UserError
from topoface.evaluation.images import SourceImages
from topoface.functional.damage import damage_score
from topoface.functional.directions import unit_rows
from topoface.functional.draws import generator
from topoface.functional.mixture import MixtureFit, fit_mixture
from topoface.heads import Softmax, StatisticsRequest
from topoface.methods import TopoFR
from topoface.methods.topofr_settings import Damage
from topoface.training.run import Run

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
PLAIN = StatisticsRequest(margin=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What came out for clean, unmirrored training images, the model in evaluation mode.

    Attributes:
        positions: int64 ``[n]``, of the images in their source; each ``batch_size`` in a row make a batch.
        labels: int64 ``[n]``.
        predicted: int64 ``[n]``, the identity whose class center has the largest cosine, without margin.
        entropy: float32 ``[n]``, nats, of the logits that the run's methods ask for (with margin unless they say otherwise).
        plain_entropy: float32 ``[n]``, nats, of the logits without margin: it does not know the label.
        target_log_probability: float32 ``[n]``, log p of the label, of the logits of ``entropy``.
        batch_size: images in a batch of the mixture.
    """

    positions: Integers
    labels: Integers
    predicted: Integers
    entropy: Tensor
    plain_entropy: Tensor
    target_log_probability: Tensor
    batch_size: int

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """``[n]``, whether another identity is predicted than the label."""
        different: NDArray[np.bool_] = self.predicted != self.labels
        return different


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """Hardness and weight of each sample as training makes them, batch by batch.

    Attributes:
        hardness: float64 ``[n]`` in [0, 1], h.
        omega: float64 ``[n]``, (1 + h)^lambda (1 - p), before any division by its mean.
        fits: one a batch.
    """

    hardness: Floats
    omega: Floats
    fits: list[MixtureFit]


def class_centers(run: Run, where: str) -> Tensor:
    """Unit rows ``[C, D]``.

    Raises:
        UserError: the run's head has none.
    """
    if not isinstance(run.head, Softmax):
        what = f"its head {type(run.head).__name__} has no class centers"
        raise UserError(what, where, "give a run with ArcFace, CosFace, CombinedMargin or Softmax")
    return unit_rows(run.head.class_centers())


def draw_samples(run: Run, samples: int, seed: int) -> Integers:
    """Positions of ``samples`` training images (or all, if there are fewer), without repeats, in whole batches if one fits.

    Raises:
        UserError: fewer than two are asked for.
    """
    if samples < 2:
        raise UserError(f"is {samples}", "--samples", "ask for a few hundred training images or more")
    count = min(samples, len(run.source))
    batch = mixture_batch(run)
    count -= count % batch if count >= batch else 0
    drawn = generator(seed, "diagnostic samples").permutation(len(run.source))[:count]
    return drawn.astype(np.int64)


def mixture_batch(run: Run) -> int:
    """Images over which training fits one mixture: a micro-batch of all processes."""
    training = run.recipe.training
    return training.batch_size // training.accumulation


@torch.no_grad()
def predict(run: Run, positions: Integers, *, where: str) -> Predictions:
    """Model and head over training images.

    Args:
        run: from `topoface.diagnostics.opening.open_run`.
        positions: int64 ``[n]``, in ``run.source``.
        where: names the run in messages.

    Raises:
        UserError: an image cannot be read, or the head has no class centers.
    """
    centers = class_centers(run, where)
    request = replace(run.hooks.request, differentiable=False)
    batch_size = mixture_batch(run)
    labels = torch.from_numpy(run.source.labels[positions])
    entropy, plain, log_p, predicted = [], [], [], []
    with progress_bar("images") as bar:
        task = bar.add_task("predictions", total=len(positions))
        for start in range(0, len(positions), batch_size):
            part = slice(start, start + batch_size)
            embeddings = embed_training_images(run, positions[part])
            stats = run.head(embeddings, labels[part], None, None, request)
            entropy.append(stats.entropy)
            plain.append(run.head(embeddings, labels[part], None, None, PLAIN).entropy)
            log_p.append(stats.target_log_probability)
            predicted.append((unit_rows(embeddings) @ centers.T).argmax(1))
            bar.update(task, advance=len(embeddings))
    return Predictions(
        positions=positions,
        labels=labels.numpy(),
        predicted=torch.cat(predicted).numpy(),
        entropy=torch.cat(entropy),
        plain_entropy=torch.cat(plain),
        target_log_probability=torch.cat(log_p),
        batch_size=batch_size,
    )


@torch.no_grad()
def embed_training_images(run: Run, positions: Integers) -> Tensor:
    """Embeddings ``[n, D]`` in evaluation mode, not normalised. UserError if an image cannot be read."""
    images = SourceImages(run.source, positions.tolist())
    pixels = np.stack([images[i] for i in range(len(images))])
    embeddings: Tensor = run.model(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    return embeddings


def damage_of(run: Run) -> tuple[Damage, str]:
    """The settings of the weights, and in words whose they are."""
    for method in run.methods:
        if isinstance(method, TopoFR) and method.sde.active:
            unused = "" if method.sde.uncertainty else " (its weights do not use h)"
            return method.sde, f"the run's own{unused}"
    return Damage(), "TopoFR's defaults (this run gave all samples the same weight)"


def batch_fit(damage: Damage) -> str:
    """The fit of single batches that stands for the settings: running sums start from ``ml``."""
    return "ml" if damage.fit == "online" else damage.fit


def fit_each_batch(
    predictions: Predictions, fit: str, damage: Damage, num_classes: int
) -> tuple[Floats, list[MixtureFit]]:
    """Hardness float64 ``[n]``, each sample's from the mixture of its own batch, and the mixtures."""
    fits = [
        fit_entropies(part, fit, damage, num_classes)
        for part in torch.split(predictions.entropy, predictions.batch_size)
    ]
    return torch.cat([each.hardness for each in fits]).double().numpy(), fits


def fit_entropies(entropy: Tensor, fit: str, damage: Damage, num_classes: int) -> MixtureFit:
    """One mixture over entropies ``[n]`` with the settings of the weights but for the fit."""
    return fit_mixture(
        entropy,
        fit=fit,
        support=damage.support,
        num_classes=num_classes,
        iterations=damage.iterations,
        floor=damage.floor,
    )


def weigh(predictions: Predictions, damage: Damage, num_classes: int) -> Weights:
    """Hardness and weight of each sample from the mixture of its own batch (topofr.md section 5.3)."""
    hardness, fits = fit_each_batch(predictions, batch_fit(damage), damage, num_classes)
    omega = damage_score(
        torch.from_numpy(hardness) if damage.uncertainty else None,
        predictions.target_log_probability.double(),
        temperature=damage.temperature,
        focal=damage.focal,
        cap=damage.cap,
    )
    return Weights(hardness=hardness, omega=omega.numpy(), fits=fits)


def sample_name(source: Source, position: int) -> str:
    """File or record, without the place where the whole source lies."""
    return source.describe(position).removeprefix(source.uri).lstrip("/ ")


def run_facts(run: Run, path: str, predictions: Predictions) -> dict[str, str]:
    """What every page about the training images of a run states."""
    named = [type(method).__name__ for method in run.methods]
    return {
        "run": f"{path} (step {run.step:,} of {run.total_steps:,}; {run.recipe.model.name}, "
        f"{type(run.head).__name__}, {', '.join(named) or 'no method'})",
        "training images": f"{len(predictions.positions):,} drawn of {len(run.source):,} in {run.source.uri}, "
        f"{len(np.unique(predictions.labels)):,} of {run.source.identities:,} identities",
    }
