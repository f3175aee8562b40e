"""The networks of arcface_torch: its names, shapes, counts and initial spread, held by digests of its own modules."""

import hashlib

import pytest
import torch

from topoface.models import MODELS, build_model
from topoface.models.backbone import blueprint

# Entries, parameters, and the start of the SHA-256 of the sorted "name shape" lines, computed once from
# recognition/arcface_torch/backbones of deepinsight/insightface (512 embeddings).
PUBLISHED = {
    "iresnet18": (187, 24_025_600, "6bdb508fbe8f9172"),
    "iresnet34": (331, 34_139_328, "88f842de492690dd"),
    "iresnet50": (475, 43_590_848, "d80a68220d7280f1"),
    "iresnet100": (925, 65_156_160, "dc48aa67c7449a7c"),
    "iresnet200": (1807, 118_833_920, "be360d6469b1859b"),
    "mobilefacenet": (333, 2_059_520, "a5470f4e8d3847b1"),
    "mobilefacenet_large": (606, 6_314_880, "e93eb03a7306f387"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_are_those_of_arcface_torch(name: str) -> None:
    backbone = blueprint(MODELS[name])
    lines = sorted(f"{key} {tuple(value.shape)}" for key, value in backbone.state_dict().items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert (len(lines), sum(p.numel() for p in backbone.parameters()), digest) == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_only_the_last_scale_is_frozen(name: str) -> None:
    frozen = [key for key, value in blueprint(MODELS[name]).named_parameters() if not value.requires_grad]
    assert frozen == ["features.weight" if name.startswith("iresnet") else "features.layers.3.weight"]


def test_convolutions_of_an_iresnet_start_with_deviation_one_tenth() -> None:
    weights = build_model("iresnet_compact").backbone.state_dict()
    for key, value in weights.items():
        if value.ndim == 4 and value.numel() > 10_000:
            assert float(value.std()) == pytest.approx(0.1, rel=0.05), key
            assert abs(float(value.mean())) < 0.005, key
    inputs = weights["fc.weight"].shape[1]
    assert float(weights["fc.weight"].std()) == pytest.approx((3 * inputs) ** -0.5, rel=0.05)
    assert float(weights["fc.bias"].abs().max()) == 0


def test_layers_of_a_mobilefacenet_start_with_the_deviation_of_their_fan_out() -> None:
    weights = build_model("mobilefacenet").backbone.state_dict()
    expected = {
        "layers.0.layers.0.weight": (2 / (128 * 9)) ** 0.5,
        "layers.1.layers.0.weight": (2 / (128 * 9)) ** 0.5,
        "conv_sep.layers.0.weight": (2 / 512) ** 0.5,
        "features.layers.2.weight": (2 / 512) ** 0.5,
    }
    for key, std in expected.items():
        assert float(weights[key].std()) == pytest.approx(std, rel=0.05), key


def test_relu_instead_of_prelu_drops_the_slopes_and_nothing_else() -> None:
    with_slopes = build_model("iresnet_tiny", activation="prelu").state_dict()
    without = build_model("iresnet_tiny").state_dict()
    assert with_slopes.keys() - without.keys() == {key for key in with_slopes if "prelu" in key}
    assert all(torch.equal(without[key], with_slopes[key]) for key in without)


def test_the_compact_models_are_as_small_as_they_say() -> None:
    sizes = {
        name: sum(p.numel() for p in build_model(name).parameters())
        for name in ("iresnet_compact", "iresnet_tiny")
    }
    assert sizes["iresnet_compact"] < 2_000_000
    assert sizes["iresnet_tiny"] < 100_000
