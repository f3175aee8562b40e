"""Frozen encoders: unit rows from a model directory, an ONNX file or stored embeddings; clear refusals."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.real_data import DATA, needs_data
from topoface.cli import main
from topoface.codes.encoders import encoder_digest
from topoface.data import open_source
from topoface.errors import UserError
from topoface.evaluation.features import open_embed
from topoface.models import build_model, load, save
from topoface.models.encoder import open_encoder, write_embeddings
from topoface.models.files import CALIBRATION

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


class _Network:
    """Plays onnxruntime's session: keeps what it is fed."""

    fed: np.ndarray

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="x", shape=["n", 3, 112, 112])]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="y")]

    def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        type(self).fed = inputs["x"]
        return [inputs["x"].mean((2, 3))]


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    runtime = SimpleNamespace(SessionOptions=SimpleNamespace, InferenceSession=lambda *_, **__: _Network())
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    (tmp_path / "net.onnx").write_bytes(b"weights")
    return str(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("said", "order", "mean", "scale"),
    [
        (None, [0, 1, 2], 127.5, 127.5),
        ({}, [0, 1, 2], 127.5, 127.5),
        ({"colour": "bgr"}, [2, 1, 0], 127.5, 127.5),
        ({"mean": 0, "scale": 255.0}, [0, 1, 2], 0, 255),
        ({"colour": "bgr", "mean": 104.0, "scale": 1}, [2, 1, 0], 104, 1),
    ],
)
def test_an_onnx_embedder_is_fed_as_the_file_beside_it_says(
    said: dict[str, object] | None, order: list[int], mean: float, scale: float, network: str
) -> None:
    if said is not None:
        Path(f"{network}.json").write_text(json.dumps(said))
    open_encoder(network, fingerprint="x")(faces(), torch.arange(9))
    pixels = faces().numpy()[:, order].astype(np.float32)
    np.testing.assert_allclose(_Network.fed, (pixels - np.float32(mean)) / np.float32(scale), rtol=1e-6)


def test_how_it_is_fed_is_part_of_what_features_and_codes_remember(network: str) -> None:
    def digests() -> tuple[str, str]:
        return open_embed(network)[1], encoder_digest(network)

    plain = digests()
    Path(f"{network}.json").write_text('{"colour": "bgr"}')
    assert all(one != other for one, other in zip(plain, digests(), strict=True))


@pytest.mark.parametrize("name", ["net.onnx.data", "w" * 200])
def test_weights_outside_the_graph_are_part_of_what_features_and_codes_remember(
    name: str, network: str
) -> None:
    size = bytes([len(name)]) if len(name) < 128 else bytes([len(name) & 127 | 128, len(name) >> 7])
    entry = b"\x0a\x08location\x12" + size + name.encode()  # as onnx.proto has it
    Path(network).write_bytes(b"graph j" + entry + b"p\x01 more")
    found = []
    for weights in (b"one", b"two"):
        Path(network).with_name(name).write_bytes(weights)
        found.append((open_embed(network)[1], encoder_digest(network)))
    assert all(one != other for one, other in zip(*found, strict=True))


def test_an_onnx_embedder_has_unit_rows_for_training_and_its_own_length_for_judging(network: str) -> None:
    unit = open_encoder(network, fingerprint="x")(faces(), torch.arange(9))
    np.testing.assert_allclose(unit.norm(dim=1), 1, rtol=1e-5)
    rows = open_embed(network)[0](faces().permute(0, 2, 3, 1).contiguous().numpy())
    pixels = (faces().numpy().astype(np.float32) - 127.5) / 127.5
    np.testing.assert_allclose(rows, pixels.mean((2, 3)), atol=1e-5)


@pytest.mark.parametrize(
    "said", ["colour: bgr", "[1]", '{"color": "bgr"}', '{"colour": "grey"}', '{"scale": 0}', '{"mean": "x"}']
)
def test_a_file_that_says_something_else_is_refused_in_one_line(said: str, network: str) -> None:
    Path(f"{network}.json").write_text(said)
    with pytest.raises(UserError, match=r"net\.onnx\.json") as caught:
        open_encoder(network, fingerprint="x")
    assert "\n" not in str(caught.value)


def test_a_calibration_does_not_make_another_encoder_of_a_model(model: str) -> None:
    plain = encoder_digest(model)
    (Path(model) / CALIBRATION).write_text("{}")
    assert encoder_digest(model) == plain
