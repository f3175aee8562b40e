"""What every registered model promises. The big ones are walked without storage, for shapes alone."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from topoface.errors import UserError
from topoface.models import MODELS, EmbeddingModel, build_model, load, save
from topoface.models.registry import spec_of

SMALL = ["iresnet_tiny", "iresnet_compact", "mobilefacenet"]
BIG = ["iresnet18", "iresnet34", "iresnet50", "iresnet100", "iresnet200", "mobilefacenet_large"]


def faces(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 112, 112, 3), np.uint8)


def view(n: int) -> torch.Tensor:
    return torch.from_numpy(faces(n)).permute(0, 3, 1, 2)


def test_every_model_is_on_one_of_the_lists() -> None:
    assert sorted(SMALL + BIG) == sorted(MODELS)


@pytest.mark.parametrize("name", SMALL + BIG)
def test_embeddings_have_the_dimension_and_the_dtype_promised(name: str) -> None:
    config = MODELS[name]
    with FakeTensorMode():
        model = EmbeddingModel(config.build(), spec_of(config), name=name, config=config)
        embeddings = model(torch.zeros((2, 3, 112, 112), dtype=torch.uint8))
    assert embeddings.shape == (2, config.dimension)
    assert embeddings.dtype == torch.float32


@pytest.mark.parametrize("name", SMALL)
def test_embed_gives_unit_rows_whatever_the_batch_size(name: str) -> None:
    model = build_model(name)
    whole = model.embed(faces(5))
    split = model.embed(faces(5), batch_size=2)
    assert whole.dtype == np.float32
    assert whole.shape == (5, model.spec.dimension)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(whole, split, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(model.embed(faces(2), flip=True), axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("trainable_scale", [False, True])
def test_gradient_reaches_every_trainable_parameter(name: str, trainable_scale: bool) -> None:
    model = build_model(name, trainable_scale=trainable_scale, dropout=0.1)
    model.train()
    torch.nn.functional.cross_entropy(model(view(4)), torch.arange(4)).backward()
    frozen = {key for key, value in model.named_parameters() if not value.requires_grad}
    assert len(frozen) == (0 if trainable_scale else 1)
    for key, value in model.named_parameters():
        if key not in frozen:
            assert value.grad is not None, key
            assert value.grad.isfinite().all(), key
            # A bias before a normalisation cancels: it is there for the names, its gradient is rounding.
            assert value.grad.abs().max() > 0 or key == "backbone.fc.bias", key


@pytest.mark.parametrize("name", SMALL)
def test_initial_weights_depend_on_the_seed_alone(name: str) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (build_model(name, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[key], again[key]) for key in first)
    differing = {key for key in first if not torch.equal(first[key], other[key])}
    drawn = {key for key, value in first.items() if key.endswith("weight") and value.ndim > 1}
    assert differing == drawn


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("channels_last", [True, False])
def test_a_loaded_model_embeds_bit_for_bit_as_the_saved_one(name: str, channels_last: bool, tmp_path) -> None:
    model = build_model(name, dimension=24, trainable_scale=True, seed=5)
    model.train()(view(4))  # moves the running statistics away from their start
    save(model, tmp_path / "model", extra={"trained_on": "noise"})
    loaded = load(tmp_path / "model")
    loaded.set_channels_last(channels_last)
    model.set_channels_last(channels_last)
    assert not any(module.training for module in loaded.modules())
    assert (loaded.name, loaded.config, loaded.spec) == (model.name, model.config, model.spec)
    assert loaded.backbone.state_dict().keys() == model.backbone.state_dict().keys()
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]
    np.testing.assert_array_equal(loaded.embed(faces(3)), model.embed(faces(3)))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("file", ["model.safetensors", "model.json"])
def test_a_changed_file_is_refused(name: str, file: str, tmp_path) -> None:
    save(build_model(name), tmp_path / "model")
    path = tmp_path / "model" / file
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="copy the model again"):
        load(tmp_path / "model")


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_stays_near_float32_and_never_reaches_the_result(name: str) -> None:
    model = build_model(name).train()
    images = view(8)
    exact = torch.nn.functional.normalize(model(images))
    model.precision = "bf16"
    rough = model(images)
    assert rough.dtype == torch.float32
    cosines = (exact * torch.nn.functional.normalize(rough)).sum(1)
    assert cosines.min() > 0.98
    assert not torch.equal(rough.bfloat16().float(), rough), "the last layer ran in bfloat16"
