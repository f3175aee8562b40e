import shutil

import numpy as np
import pytest
import torch
from torch import nn

from topoface.errors import UserError
from topoface.models import EmbeddingModel, EmbeddingSpec, build_model
from topoface.models.embedding import _area_resized
from topoface.models.iresnet import IResNetConfig


class Means(nn.Module):
    """A backbone whose embedding can be worked out by hand: sums of the channels' left and right halves."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = x.shape[3] // 2
        return self.factor * torch.cat([x[..., :half].mean((2, 3)), x[..., half:].mean((2, 3))], 1)


def by_hand(factor: float = 1.0, **spec: object) -> EmbeddingModel:
    config = IResNetConfig(blocks=(1, 1, 1, 1), dimension=6)
    return EmbeddingModel(Means(factor), EmbeddingSpec(dimension=6, **spec), name="means", config=config)


def faces(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 112, 112, 3), np.uint8)


def planes(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def test_forward_resizes_by_area_and_maps_pixels_to_minus_one_to_one() -> None:
    images = faces(2)
    seen = []
    model = by_hand(input_size=28)
    model.backbone.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    model(planes(images))
    expected = images.reshape(2, 28, 4, 28, 4, 3).astype(np.float64).mean((2, 4)) / 127.5 - 1
    np.testing.assert_allclose(seen[0].permute(0, 2, 3, 1).numpy(), expected, atol=1e-6)


def test_colour_order_mean_and_scale_are_the_specs() -> None:
    image = np.zeros((1, 112, 112, 3), np.uint8)
    image[..., 0] = 200
    embedding = by_hand(colour="bgr", mean=100.0, scale=50.0)(planes(image))
    assert embedding.tolist() == [[-2, -2, 2, -2, -2, 2]]


@pytest.mark.parametrize("name", ["iresnet_tiny", "mobilefacenet"])
def test_a_float_view_equals_the_bytes_it_was_made_from_and_is_not_changed(name: str) -> None:
    model = build_model(name).eval()
    view = planes(faces(2)).float()
    before = view.clone()
    assert torch.equal(model(view), model(planes(faces(2))))
    assert torch.equal(view, before)


def test_float64_parameters_give_float64_embeddings_near_the_float32_ones() -> None:
    model = build_model("iresnet_tiny").eval()
    single = model(planes(faces(3)))
    double = model.double()(planes(faces(3)))
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


def test_memory_layout_changes_rounding_at_most_and_its_gradient_too() -> None:
    def run(channels_last: bool) -> tuple[torch.Tensor, torch.Tensor]:
        model = build_model("iresnet_tiny").double()
        model.set_channels_last(channels_last)
        assert model.backbone.conv1.weight.is_contiguous(memory_format=model._memory_format)
        embeddings = model(planes(faces(4)))
        embeddings[:, 0].sum().backward()
        return embeddings, model.backbone.layer2[0].conv1.weight.grad

    for first, second in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)


def test_embed_with_flip_adds_the_mirrored_face_before_it_normalises() -> None:
    images = faces(3)
    model = by_hand()
    with torch.no_grad():
        total = (model(planes(images)) + model(planes(images[:, :, ::-1].copy()))).double().numpy()
    np.testing.assert_allclose(
        model.embed(images, flip=True), total / np.linalg.norm(total, axis=1, keepdims=True), atol=1e-6
    )
    mirrored = images[:, :, ::-1]  # a view with negative strides, as callers make them
    np.testing.assert_allclose(model.embed(mirrored, flip=True), model.embed(images, flip=True), atol=1e-6)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_rows_are_of_unit_length_however_short_or_long_the_embedding(factor: float) -> None:
    rows = by_hand(factor).embed(faces(2))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_a_zero_embedding_stays_zero() -> None:
    assert by_hand(0.0).embed(faces(2)).tolist() == [[0.0] * 6] * 2


def test_no_images_give_no_rows() -> None:
    rows = build_model("iresnet_tiny").embed(np.zeros((0, 112, 112, 3), np.uint8))
    assert rows.shape == (0, 32)
    assert rows.dtype == np.float32


def test_embed_takes_read_only_arrays_and_tensors() -> None:
    model = build_model("iresnet_tiny")
    images = faces(3)
    images.flags.writeable = False
    np.testing.assert_array_equal(model.embed(images), model.embed(torch.tensor(images)))


def test_embed_leaves_each_modules_mode_and_statistics_as_they_were() -> None:
    model = build_model("iresnet_tiny").train()
    model.backbone.layer1.eval()
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.embed(faces(2))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_dropout_is_off_in_embed() -> None:
    model = build_model("iresnet_tiny", dropout=0.9).train()
    np.testing.assert_array_equal(model.embed(faces(2)), model.embed(faces(2)))


@pytest.mark.parametrize(
    ("images", "named"),
    [
        ([1, 2], "list"),
        (np.zeros((1, 112, 112, 3)), "float64"),
        (torch.zeros((1, 112, 112, 3)), "float32"),
        (np.zeros((112, 112, 3), np.uint8), r"\[112, 112, 3\]"),
        (np.zeros((1, 3, 112, 112), np.uint8), r"\[1, 3, 112, 112\]"),
        (np.zeros((1, 56, 56, 3), np.uint8), r"\[1, 56, 56, 3\]"),
    ],
)
def test_embed_refuses_what_are_no_aligned_faces(images: object, named: str) -> None:
    with pytest.raises(UserError, match=named):
        build_model("iresnet_tiny").embed(images)


def test_forward_refuses_images_of_another_size_and_embed_a_batch_of_none() -> None:
    model = build_model("iresnet_tiny")
    with pytest.raises(UserError, match=r"\[n, 3, 112, 112\]"):
        model(torch.zeros((2, 3, 56, 56)))
    with pytest.raises(UserError, match="batch_size"):
        model.embed(faces(1), batch_size=0)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match="fp32 or bf16"):
        build_model("iresnet_tiny").precision = "fp16"


@pytest.mark.parametrize(
    "fields",
    [
        {"dimension": 0},
        {"dimension": True},
        {"dimension": 8, "image_size": 1.5},
        {"dimension": 8, "input_size": 10**9},
        {"dimension": 8, "colour": "gray"},
        {"dimension": 8, "mean": float("nan")},
        {"dimension": 8, "scale": 0},
        {"dimension": 8, "template": None},
    ],
)
def test_a_spec_out_of_range_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(UserError, match="spec"):
        EmbeddingSpec(**fields)


@pytest.mark.filterwarnings("ignore")
def test_a_backbone_is_one_graph_to_the_compiler_and_keeps_its_names() -> None:
    model = build_model("iresnet_tiny").train()
    names = list(model.state_dict())
    plain = model(planes(faces(4)))
    model.backbone.compile(backend="aot_eager", fullgraph=True)
    compiled = model(planes(faces(4)))
    compiled[:, 0].sum().backward()
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-4)
    assert list(model.state_dict()) == names


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_code_embeds_as_the_plain_one() -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    model = build_model("iresnet_tiny")
    plain = model.embed(faces(4))
    model.backbone.compile()
    np.testing.assert_allclose(model.embed(faces(4)), plain, atol=1e-5)


@pytest.mark.parametrize("size", [112, 56, 28, 64])
def test_images_are_resized_by_area(size: int) -> None:
    rng = np.random.default_rng(0)
    pixels = (
        torch.from_numpy(rng.integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)).permute(0, 3, 1, 2).float()
    )
    expected = torch.nn.functional.interpolate(pixels, size=size, mode="area")
    assert torch.equal(_area_resized(pixels, size), expected)
