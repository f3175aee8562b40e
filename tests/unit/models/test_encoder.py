"""Frozen encoders: unit rows from a model directory, an ONNX file or stored embeddings; clear refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.real_data import DATA, needs_data
from topoface.cli import main
from topoface.data import open_source
from topoface.errors import UserError
from topoface.models import build_model, load, save
from topoface.models.encoder import open_encoder, write_embeddings

FACES = "synthetic:?identities=3&images=3&seed=0"


@pytest.fixture
def model(tmp_path: Path) -> str:
    save(build_model("iresnet_tiny", dimension=16, seed=0), tmp_path / "model")
    return str(tmp_path / "model")


def faces() -> torch.Tensor:
    source = open_source(FACES)
    return torch.from_numpy(np.stack([source[i][0] for i in range(9)])).permute(0, 3, 1, 2)


def test_a_model_directory_encodes_as_the_model_embeds(model: str) -> None:
    rows = open_encoder(model, fingerprint="x")(faces(), torch.arange(9))
    expected = load(model).embed(faces().permute(0, 2, 3, 1).contiguous())
    np.testing.assert_allclose(rows.numpy(), expected, atol=1e-6)
    assert not rows.requires_grad
    (rows * torch.ones(1, requires_grad=True)).sum().backward()  # may take part in a loss


def test_stored_embeddings_are_those_of_the_encoder_by_position(model: str, tmp_path: Path) -> None:
    out = tmp_path / "rows.safetensors"
    assert main(["embed", model, FACES, str(out)]) == 0
    rows = open_encoder(str(out), fingerprint=open_source(FACES).fingerprint())(
        faces()[:2], torch.tensor([7, 2])
    )
    expected = open_encoder(model, fingerprint="x")(faces()[[7, 2]], torch.tensor([7, 2]))
    torch.testing.assert_close(rows, expected, atol=1e-6, rtol=0)


def test_embeddings_of_another_source_are_refused(model: str, tmp_path: Path) -> None:
    out = tmp_path / "rows.safetensors"
    assert main(["embed", model, "synthetic:?identities=3&images=3&seed=1", str(out)]) == 0
    with pytest.raises(UserError, match="was made from other images"):
        open_encoder(str(out), fingerprint=open_source(FACES).fingerprint())


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_rows_that_are_no_directions_are_refused(value: float, tmp_path: Path) -> None:
    path = tmp_path / "rows.safetensors"
    write_embeddings(path, np.full((3, 4), value, np.float32), fingerprint="x")
    with pytest.raises(UserError, match="no directions"):
        open_encoder(str(path), fingerprint="x")


def test_a_model_that_gives_no_embedding_stores_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = build_model("iresnet_tiny", dimension=16, seed=0)
    for parameter in broken.parameters():
        parameter.data.fill_(float("nan"))
    save(broken, tmp_path / "model")
    assert main(["embed", str(tmp_path / "model"), FACES, str(tmp_path / "rows.safetensors")]) == 2
    assert "gives no embedding" in capsys.readouterr().err
    assert not (tmp_path / "rows.safetensors").exists()


@pytest.mark.parametrize("name", ["absent.safetensors", "absent.onnx", "absent"])
def test_a_missing_encoder_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=name):
        open_encoder(str(tmp_path / name), fingerprint="x")


def test_a_broken_onnx_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(UserError, match="give an ONNX embedder") as caught:
        open_encoder(str(tmp_path / "broken.onnx"), fingerprint="x")
    assert "\n" not in str(caught.value)


def test_embed_refuses_a_place_it_cannot_write(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", model, FACES, str(tmp_path / "absent" / "rows.safetensors")]) == 2
    assert "make the folder first" in capsys.readouterr().err


@needs_data
def test_a_public_onnx_embedder_gives_unit_rows_that_tell_people_apart() -> None:
    encode = open_encoder(str(DATA / "models" / "mobilefacenet_insightface.onnx"), fingerprint="x")
    source = open_source(str(DATA / "train"))
    positions = [i for identity in (0, 1) for i in np.flatnonzero(source.labels == identity)[:2]]
    images = torch.from_numpy(np.stack([source[int(i)][0] for i in positions])).permute(0, 3, 1, 2)
    cosines = (rows := encode(images, torch.tensor(positions))) @ rows.T
    torch.testing.assert_close(cosines.diagonal(), torch.ones(4))
    assert min(cosines[0, 1], cosines[2, 3]) > cosines[:2, 2:].max()
