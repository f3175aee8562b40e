import subprocess
import sys

import pytest

import topoface.models
from topoface.errors import UserError
from topoface.models import MODELS, build_model


def test_a_misspelt_model_or_setting_says_which_one_was_meant() -> None:
    with pytest.raises(UserError, match="did you mean 'iresnet_compact'"):
        build_model("iresnet_compct")
    with pytest.raises(UserError, match="did you mean 'widths'"):
        build_model("iresnet_tiny", width=(4, 8, 16, 32))
    with pytest.raises(UserError, match=r"known are .*iresnet100, .*mobilefacenet"):
        build_model("?")


def test_lists_as_read_from_a_recipe_do_as_well_as_tuples() -> None:
    model = build_model("iresnet_tiny", widths=[4, 4, 8, 8], blocks=[1, 2, 1, 1], dimension=5, input_size=32)
    assert model.config.widths == (4, 4, 8, 8)
    assert (model.spec.dimension, model.spec.input_size) == (5, 32)
    assert MODELS["iresnet_tiny"].dimension == 32


@pytest.mark.parametrize(
    ("name", "settings", "named"),
    [
        ("iresnet_tiny", {"dimension": 0}, "model.dimension"),
        ("iresnet_tiny", {"dimension": "many"}, "model.dimension"),
        ("iresnet_tiny", {"input_size": 8}, "model.input_size"),
        ("iresnet_tiny", {"dropout": 1.0}, "model.dropout"),
        ("iresnet_tiny", {"dropout": float("nan")}, "model.dropout"),
        ("iresnet_tiny", {"dropout": "0.1"}, "model.dropout"),
        ("iresnet_tiny", {"trainable_scale": 1}, "model.trainable_scale"),
        ("iresnet_tiny", {"activation": "gelu"}, "model.activation"),
        ("iresnet_tiny", {"blocks": (1, 1, 1)}, "model.blocks"),
        ("iresnet_tiny", {"blocks": (1, 1, 1, 10**9)}, "model.blocks"),
        ("iresnet_tiny", {"widths": 8}, "model.widths"),
        ("mobilefacenet", {"width": 0}, "model.width"),
        ("mobilefacenet", {"blocks": (0, 1, 1, 1)}, "model.blocks"),
    ],
)
def test_an_impossible_setting_is_named_before_anything_is_built(name, settings, named) -> None:
    with pytest.raises(UserError, match=named):
        build_model(name, **settings)


def test_the_public_names_are_these() -> None:
    assert sorted(topoface.models.__all__) == [
        "EmbeddingModel",
        "EmbeddingSpec",
        "MODELS",
        "build_model",
        "load",
        "save",
    ]
    assert all(hasattr(topoface.models, name) for name in topoface.models.__all__)
    assert not hasattr(topoface.models, "train")


def test_the_spec_can_be_read_without_torch() -> None:
    code = "import sys; from topoface.models import EmbeddingSpec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
