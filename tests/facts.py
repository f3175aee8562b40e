"""What a method is told of its run, for tests that build one by itself."""

from topoface.methods.method import RunFacts
from topoface.models import build_model


def run_facts(
    num_classes: int = 5,
    embedding_dim: int = 8,
    steps_per_epoch: float = 10.0,
    trainable_embedding_scale: bool = True,
) -> RunFacts:
    """Facts with a small model of that width."""
    return RunFacts(
        num_classes=num_classes,
        num_images=100,
        source_fingerprint="of the test",
        embedding_dim=embedding_dim,
        steps_per_epoch=steps_per_epoch,
        trainable_embedding_scale=trainable_embedding_scale,
        logit_scale=16.0,
        margin_room=0.5,
        has_class_centers=True,
        model=build_model("iresnet_compact", dimension=embedding_dim, seed=0),
    )
