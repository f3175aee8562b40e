import logging
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from topoface.errors import UserError
from topoface.models import build_model, load, save

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    """A trained-looking MobileFaceNet with 16 embeddings."""
    model = build_model("mobilefacenet", dimension=16, seed=1)
    model(
        torch.randint(0, 256, (2, 3, 112, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    )
    return {key: value.contiguous() for key, value in model.backbone.state_dict().items()}


def faces() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), np.uint8)


def reference(weights: Weights) -> np.ndarray:
    model = build_model("mobilefacenet", dimension=16)
    model.backbone.load_state_dict(weights)
    return model.embed(faces())


WRAPPED: dict[str, Callable[[Weights], object]] = {
    "bare": lambda weights: weights,
    "data parallel": lambda weights: {f"module.{key}": value for key, value in weights.items()},
    "compiled, inside a module": lambda w: {
        f"module.backbone._orig_mod.{key}": value for key, value in w.items()
    },
    "lightning": lambda w: {"epoch": 3, "state_dict": {f"backbone.{key}": value for key, value in w.items()}},
    "under model": lambda weights: {"model": weights, "step": 1},
    "arcface_torch checkpoint": lambda weights: {
        "epoch": 1,
        "global_step": 2,
        "state_dict_backbone": weights,
        "state_dict_softmax_fc": {"weight": torch.zeros(50, 16)},
        "state_optimizer": {"state": {}, "param_groups": []},
    },
    "before torch counted batches": lambda w: {k: v for k, v in w.items() if "num_batches" not in k},
}


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_is_found_under_its_wrappings(
    kind: str, zipped: bool, weights: Weights, tmp_path: Path
) -> None:
    torch.save(WRAPPED[kind](weights), tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    model = load(tmp_path / "x.pt")
    assert (model.name, model.spec.dimension, model.spec.input_size) == ("mobilefacenet", 16, 112)
    assert not model.training
    np.testing.assert_array_equal(model.embed(faces()), reference(weights))


def test_half_precision_weights_become_float32(weights: Weights, tmp_path: Path) -> None:
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in weights.items()}, tmp_path / "x.pth")
    model = load(tmp_path / "x.pth")
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert (model.embed(faces()) * reference(weights)).sum(1).min() > 0.999


def test_a_foreign_model_can_be_saved_as_ours(weights: Weights, tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "x.pt")
    save(load(tmp_path / "x.pt"), tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").embed(faces()), reference(weights))


def test_a_scale_that_was_trained_stays_trainable(weights: Weights, tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "frozen.pt")
    torch.save(weights | {"features.layers.3.weight": torch.full((16,), 0.5)}, tmp_path / "trained.pt")
    assert not load(tmp_path / "frozen.pt").config.trainable_scale
    assert load(tmp_path / "trained.pt").config.trainable_scale


def test_class_weights_beside_the_backbone_are_left_out_with_a_note(weights, tmp_path: Path, caplog) -> None:
    torch.save(
        weights | {"weight": torch.zeros(50, 16), "head.kernel": torch.zeros(16, 50)}, tmp_path / "x.pt"
    )
    with caplog.at_level(logging.WARNING):
        model = load(tmp_path / "x.pt")
    np.testing.assert_array_equal(model.embed(faces()), reference(weights))
    assert [message.split("left out ")[1].split(" ")[0] for message in caplog.messages] == [
        "head.kernel",
        "weight",
    ]


def test_iresnets_are_told_apart_by_their_blocks(tmp_path: Path) -> None:
    model = build_model("iresnet18", dimension=8, seed=2)
    torch.save(model.backbone.state_dict(), tmp_path / "x.pt")
    loaded = load(tmp_path / "x.pt")
    assert (loaded.name, loaded.spec.dimension) == ("iresnet18", 8)
    np.testing.assert_array_equal(loaded.embed(faces()[:1]), model.embed(faces()[:1]))


class Attack:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("attacked",)


def without(weights: Weights, key: str) -> Weights:
    return {name: value for name, value in weights.items() if name != key}


REFUSED: dict[str, tuple[Callable[[Weights], object], str]] = {
    "code": (lambda w: w | {"x": Attack()}, r"asks to run \w+\.mkdir"),
    "a whole module": (lambda w: torch.nn.Linear(2, 2), "asks to run torch.nn"),
    "a tensor": (lambda w: torch.zeros(3), "holds a Tensor"),
    "nothing": (lambda w: {}, "holds a dict"),
    "a number among the weights": (lambda w: w | {"epoch": 3}, "'epoch' is no named tensor"),
    "a key that is no name": (lambda w: w | {3: torch.zeros(1)}, "'3' is no named tensor"),
    "two of one name": (lambda w: w | {f"module.{k}": v for k, v in w.items()}, "two entries"),
    "another architecture": (
        lambda w: {"patch_embed.proj.weight": torch.zeros(3, 3)},
        "unknown architecture",
    ),
    "another depth": (
        lambda w: w | {"layers.3.layers.9.layers.0.layers.0.weight": torch.zeros(1)},
        r"\[1, 5, 6, 2\] blocks",
    ),
    "a missing weight": (
        lambda w: without(w, "conv_sep.layers.1.bias"),
        r"lacks weights conv_sep\.layers\.1\.bias",
    ),
    "no last scale": (lambda w: without(w, "features.layers.3.weight"), "lacks the last normalisation"),
    "a foreign weight": (lambda w: w | {"conv_sep.se.bias": torch.zeros(7)}, r"foreign weights conv_sep\.se"),
    "another shape": (
        lambda w: w | {"conv_sep.layers.0.weight": torch.zeros(512, 256, 3, 3)},
        r"conv_sep\.layers\.0\.weight has the shape \[512, 256, 3, 3\]",
    ),
    "a huge tensor of few bytes": (
        lambda w: w | {"features.layers.2.weight": torch.zeros(1).expand(4096, 10**9)},
        "not a plain dense tensor",
    ),
    "a sparse tensor": (lambda w: w | {"s": torch.eye(3).to_sparse()}, "not a plain dense tensor"),
    "complex numbers": (
        lambda w: w | {"s": torch.zeros(2, dtype=torch.complex64)},
        "not a plain dense tensor",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
def test_what_is_no_known_state_dict_is_refused(kind, zipped, weights, tmp_path: Path, monkeypatch) -> None:
    make, named = REFUSED[kind]
    monkeypatch.chdir(tmp_path)
    torch.save(make(weights), tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=named) as caught:
        load(tmp_path / "x.pt")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x80\x04.", b"PK\x03\x04"])
def test_what_is_no_torch_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.pt"):
        load(tmp_path / "x.pt")


def test_a_single_damaged_byte_of_a_weight_is_noticed(weights: Weights, tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        entry = max(archive.infolist(), key=lambda info: info.file_size)
    content = bytearray((tmp_path / "x.pt").read_bytes())
    content[entry.header_offset + entry.file_size // 2] ^= 1
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(UserError, match="checksum of"):
        load(tmp_path / "x.pt")


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))
    with pytest.raises(UserError, match="compressed"):
        load(tmp_path / "x.pt")
