"""Activation checkpointing: the same step from less memory."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from topoface.models import EmbeddingModel, build_model

NETWORKS = {
    "iresnet": lambda: build_model("iresnet_tiny", activation="prelu"),
    "mobilefacenet": lambda: build_model("mobilefacenet", width=1, dimension=8, input_size=56),
}


def faces(n: int) -> Tensor:
    images = np.random.default_rng(0).integers(0, 256, (n, 112, 112, 3), np.uint8)
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def step(model: EmbeddingModel, images: Tensor) -> tuple[dict[str, Tensor], int]:
    """Embeddings, gradients and statistics after one training step, and the bytes kept for backward."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        embeddings = model.train()(images)
    (embeddings * torch.arange(embeddings.numel()).view_as(embeddings).cos()).sum().backward()
    result = {"embeddings": embeddings.detach()}
    result |= {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return result | {f"state {name}": value for name, value in model.state_dict().items()}, sum(kept.values())


@pytest.mark.parametrize("network", NETWORKS)
def test_the_step_has_the_same_bits_and_keeps_less(network: str) -> None:
    plain = NETWORKS[network]()
    thrifty = copy.deepcopy(plain)
    thrifty.set_recompute(True)
    expected, all_kept = step(plain, faces(12))
    ours, kept = step(thrifty, faces(12))
    assert expected.keys() == ours.keys()
    for key, value in expected.items():
        assert torch.equal(ours[key], value), key
    assert kept < 0.6 * all_kept


def test_statistics_move_once_a_step_and_go_on_moving() -> None:
    model = build_model("iresnet_tiny")
    model.set_recompute(True)
    for count in (1, 2):
        state, _ = step(model, faces(4))
        assert {int(value) for key, value in state.items() if key.endswith("num_batches_tracked")} == {count}


def test_embeddings_are_those_without_it() -> None:
    model = build_model("iresnet_tiny")
    images = np.ascontiguousarray(faces(3).permute(0, 2, 3, 1).numpy())
    plain = model.embed(images)
    model.set_recompute(True)
    assert np.array_equal(model.embed(images), plain)


def test_it_can_be_switched_off_again() -> None:
    model = build_model("iresnet_tiny")
    model.set_recompute(True)
    model.set_recompute(False)
    assert not any(getattr(module, "recompute", False) for module in model.modules())
