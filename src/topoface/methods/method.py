"""What a method is: the places where a published idea may change a training step, all neutral by default."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from topoface.data.batch import Batch
from topoface.data.source import Source
from topoface.functional.draws import SampleDraws
from topoface.heads.head import ClassStatistics, StatisticsRequest
from topoface.models import EmbeddingModel


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a method may know about the run it is built for.

    Attributes:
        num_classes: identities of the training source.
        num_images: its images.
        source_fingerprint: changes when they do.
        embedding_dim: width D of the embeddings.
        steps_per_epoch: optimizer steps of one pass over the training source (a float: batches straddle epochs).
        trainable_embedding_scale: whether the model's last normalisation has a trainable scale.
        logit_scale: s, what the head multiplies cosines with; None if it has no such number.
        margin_room: how far the head's margin may be shifted either way, in its own unit; None if it has none.
        has_class_centers: whether the head learns a center for each identity.
        model: what is trained, not wrapped; for methods that follow its weights. Never to be trained by a method.
    """

    num_classes: int
    num_images: int
    source_fingerprint: str
    embedding_dim: int
    steps_per_epoch: float
    trainable_embedding_scale: bool
    logit_scale: float | None
    margin_room: float | None
    has_class_centers: bool
    model: EmbeddingModel


@dataclass(frozen=True, kw_only=True)
class StepState:
    """What a method sees after the head.

    Attributes:
        batch: the clean batch, with what ``prepare`` added.
        embeddings: float32 ``[n, D]``, not normalised, carrying the graph.
        stats: what the head returned.
        class_loss: scalar, mean of weight times loss, carrying the graph.
        step: optimizer step, from 0.
    """

    batch: Batch
    embeddings: Tensor
    stats: ClassStatistics
    class_loss: Tensor
    step: int

    @property
    def class_centers(self) -> Tensor | None:
        """Learned class centers with their graph, if the head has any: all ``[C, D]`` or those on this rank, see ``ClassStatistics``."""
        return self.stats.class_centers


class Method(nn.Module):
    """Base of all methods. Only hooks that a subclass overrides are ever called.

    A method is built from the recipe as ``Method(facts, **init_args)``. Its parameters are trained
    without weight decay and, like its buffers, saved with the checkpoint.
    """

    def __init__(self, facts: RunFacts) -> None:
        super().__init__()
        self.facts = facts

    def connect(self, source: Source) -> None:
        """Runs once before training, with the source of the faces: to look up what belongs to its identities."""

    def prepare(self, batch: Batch) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Named tensors made from the clean batch; runs in a loader thread, must not touch parameters."""
        return {}

    def perturb(self, images: Tensor, draws: SampleDraws) -> Tensor:  # noqa: ARG002
        """The view for the backbone, ``[n, 3, 112, 112]``: new float32 images in [0, 255]; never in place.

        ``images`` are the clean uint8 ones, or the float32 view of the method before.
        """
        return images

    def margin_shift(self, embeddings: Tensor, batch: Batch) -> Tensor | None:  # noqa: ARG002
        """``[n]``, added to the margin of each sample."""
        return None

    def negatives(self, embeddings: Tensor, batch: Batch) -> Tensor | None:  # noqa: ARG002
        """Log-mass that joins each row's denominator: ``[n]``, or a scalar, this process's share of it (see ``Head``)."""
        return None

    def statistics_request(self) -> StatisticsRequest:
        """Which class statistics ``sample_weight`` reads."""
        return StatisticsRequest()

    def sample_weight(self, stats: ClassStatistics) -> Tensor | None:  # noqa: ARG002
        """``[n]`` weight of each sample's loss."""
        return None

    def penalties(self, state: StepState) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Named scalars that join the sum of the loss, already weighted."""
        return {}

    def update(self, states: Sequence[StepState]) -> None:
        """Runs after the optimizer step, without gradient; ``states`` are those of its micro-batches, in order."""

    def log_values(self) -> Mapping[str, Tensor | float]:
        """Named scalars, or short lists as 1-d tensors, of the last step; read only when a line of the log is written.

        Every rank is asked at the same steps and must give the same names; scalars are averaged over the ranks.
        """
        return {}


def with_hook(methods: Iterable[nn.Module], hook: str) -> list[Method]:
    """The methods whose class gives this hook a body of its own; the others are never called.

    ``methods`` is typed as modules so that a ModuleList fits; entries that are no Method are refused.
    """
    chosen = []
    for method in methods:
        if not isinstance(method, Method):
            raise TypeError(f"{type(method).__name__} is not a topoface.methods.Method")
        if getattr(type(method), hook) is not getattr(Method, hook):
            chosen.append(method)
    return chosen
