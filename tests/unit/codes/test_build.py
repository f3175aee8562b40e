"""From faces to codes and further: build, insert, the command line, encoders, and the controls they make possible."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.oracles import code_vectors as oracle
from tests.real_data import DATA, needs_data
from topoface import cli
from topoface.codes.build import OF_IMAGES, PAPER, BuildSettings, build
from topoface.codes.encoders import open_image_encoder
from topoface.codes.encoding import class_sums
from topoface.codes.extend import extend
from topoface.codes.table import open_table
from topoface.codes.tokenise import KINDS
from topoface.data import Source, open_source
from topoface.errors import UserError
from topoface.models.encoder import write_embeddings

FACES = "synthetic:?identities=30&images=4&seed=0"
MORE = "synthetic:?identities=40&images=4&seed=0"  # the same thirty, and ten others


def embedded(folder: Path, uri: str, dimension: int = 12) -> tuple[Source, str]:
    """Embeddings around a direction for each identity, which its name alone decides."""
    source = open_source(uri)
    middle = np.random.default_rng(0).normal(size=(100, dimension))[: source.identities]
    noise = np.random.default_rng(1).normal(size=(400, dimension))[: len(source)]
    file = folder / f"{source.identities}.safetensors"
    rows = oracle.unit(2 * middle[source.labels] + noise).astype(np.float32)
    write_embeddings(file, rows, fingerprint=source.fingerprint())
    return source, str(file)


def test_code_vectors_are_whitened_means_of_the_identities(tmp_path: Path) -> None:
    source, encoder = embedded(tmp_path, FACES)
    table = build(source, tmp_path / "codes", BuildSettings(encoder=encoder, alpha=None, shape="6x3"))
    assert table.alphabets == (6, 6, 6)
    assert table.meta["images"] == 120
    rows = open_image_encoder(encoder, fingerprint=source.fingerprint())(
        torch.zeros(0), torch.arange(120)
    ).numpy()
    means = np.stack([rows[source.labels == k].mean(0) for k in range(30)])
    vectors = table.unit_vectors(table.rows_of(source.names, "here"))
    np.testing.assert_allclose(vectors, oracle.unit(means), atol=2e-3)
    whitened = build(source, tmp_path / "white", BuildSettings(encoder=encoder, alpha=0.5, shape="6x3"))
    rank = (table.meta["space"]["effective_rank"], whitened.meta["space"]["effective_rank"])
    assert rank[1] > rank[0]


class Renumbered(Source):
    """A source whose labels are numbered in another order; counts how often it is asked for its names."""

    def __init__(self, source: Source, uri: str = "renumbered") -> None:
        self.uri, self._faces = uri, source
        self._order = np.random.default_rng(0).permutation(source.identities)
        self.asked = 0

    identities = property(lambda self: self._faces.identities)
    labels = property(lambda self: np.argsort(self._order)[self._faces.labels])

    @property
    def names(self) -> list[str]:
        self.asked += 1
        names = self._faces.names
        return [names[old] for old in self._order]

    def __len__(self) -> int:
        return len(self._faces)

    def __getitem__(self, i: int) -> Any:
        return self._faces[i]

    def describe(self, i: int) -> str:
        return self._faces.describe(i)

    def fingerprint(self) -> str:
        return self._faces.fingerprint()


def test_codes_do_not_depend_on_how_labels_are_numbered(tmp_path: Path) -> None:
    source, encoder = embedded(tmp_path, FACES)
    for kind in KINDS:
        settings = BuildSettings(encoder=encoder, kind=kind, max_images=3)
        one = build(source, tmp_path / f"{kind}_one", settings)
        other = build(Renumbered(source), tmp_path / f"{kind}_other", settings)
        assert list(one.uids) == list(other.uids)
        assert one.digest == other.digest


def test_a_source_is_asked_for_its_names_a_few_times_and_not_for_each_identity(tmp_path: Path) -> None:
    """RecordIO makes them anew each time: once for each identity takes hours where there are 600,000."""
    source, encoder = embedded(tmp_path, FACES)
    asked = Renumbered(source)
    table = build(asked, tmp_path / "codes", BuildSettings(encoder=encoder, max_images=3))
    assert asked.asked <= 4
    more, encoder = embedded(tmp_path, MORE)
    asked = Renumbered(more)
    extend(table, asked, tmp_path / "more", encoder=encoder)
    assert asked.asked <= 4


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_built_and_extended(tmp_path: Path, kind: Any) -> None:
    source, encoder = embedded(tmp_path, FACES)
    table = build(source, tmp_path / "codes", BuildSettings(encoder=encoder, kind=kind, shrink="wiener"))
    more, other = embedded(tmp_path, MORE)
    if kind == "rs" and table.alphabets[0] ** int(table.meta["message"]) < 40:
        with pytest.raises(UserError, match="is full"):
            extend(table, more, tmp_path / "more", encoder=other)
        return
    wider = extend(table, more, tmp_path / "more", encoder=other)
    assert wider.num_identities == 40
    assert wider.meta["inserted"] == 10
    assert wider.meta["extends"] == table.digest
    assert wider.meta["images"] == 160
    assert wider.meta["space"] != table.meta["space"]
    old = table.tokens(table.rows_of(source.names, "here"))
    assert (wider.tokens(wider.rows_of(source.names, "here")) == old).all()
    whole = build(more, tmp_path / "whole", BuildSettings(encoder=other, kind=kind, shrink="wiener"))
    new = [name for name in more.names if name not in set(source.names)]
    one, two = (t.unit_vectors(t.rows_of(new, "here")) for t in (wider, whole))
    assert (one * two).sum(1).min() > 0.8
    with pytest.raises(UserError, match="no identity that"):
        extend(wider, more, tmp_path / "again", encoder=other)


def test_random_vectors_are_a_control_that_needs_no_encoder(tmp_path: Path) -> None:
    settings = BuildSettings(encoder="random", dimension=20, kind="random")
    table = build(open_source(FACES), tmp_path / "codes", settings)
    assert table.dimension == 20
    assert not {*OF_IMAGES} & {*table.meta}, "nothing is said to be applied that was not"
    wider = extend(table, open_source(MORE), tmp_path / "more")
    names = open_source(FACES).names
    np.testing.assert_array_equal(
        wider.unit_vectors(wider.rows_of(names, "here")), table.unit_vectors(table.rows_of(names, "here"))
    )


def test_published_reading_is_a_preset(tmp_path: Path) -> None:
    source, encoder = embedded(tmp_path, FACES)
    chosen: dict[str, Any] = {**PAPER, "epochs": 5}
    table = build(source, tmp_path / "codes", BuildSettings(encoder=encoder, **chosen))
    assert table.alphabets == (20, 20)
    assert table.meta["alpha"] is None
    assert table.books is None


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "k-means"},
        {"dimension": 1},
        {"max_images": 0},
        {"epochs": -1},
        {"momentum": 1.0},
        {"rate": 0.0},
        {"rate": float("inf")},
    ],
)
def test_settings_without_sense_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        BuildSettings(**{"encoder": "random", **change}).check()


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"alpha": 0.4}, "alpha"),
        ({"alpha": None}, "alpha"),
        ({"shrink": "wiener"}, "shrink"),
        ({"max_images": 5}, "max images"),
        ({"epochs": 7}, "epochs"),
        ({"step": "sum"}, "step"),
        ({"rate": 0.2}, "rate"),
        ({"momentum": 0.9}, "momentum"),
        (PAPER, "alpha"),
    ],
)
def test_random_vectors_refuse_what_they_would_ignore(change: dict[str, Any], where: str) -> None:
    with pytest.raises(UserError, match=f"^{where}: is .*; leave it out.*encoder random"):
        BuildSettings(**{"encoder": "random", **change}).check()
    BuildSettings(**{"encoder": "a.onnx", **change}).check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 2.0}, "alpha: is 2"),
        ({"alpha": 1.0, "dimension": 12}, "leaves no structure"),
        ({"kind": "rs", "shape": "10x8"}, "give a prime"),
        ({"shape": "3x3"}, "27 codes for 30"),
        ({"out": "file/codes"}, "cannot be written"),
    ],
)
def test_mistakes_are_told_before_the_images_are_read(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / change.pop("out", "codes")
    settings = BuildSettings(**{"encoder": str(tmp_path / "missing.safetensors"), **change})
    with pytest.raises(UserError, match=message):
        build(open_source(FACES), out, settings)


def test_an_identity_without_images_is_named_before_they_are_read(tmp_path: Path) -> None:
    source = Renumbered(open_source(FACES))
    source.__class__ = type(
        "Gap", (Renumbered,), {"labels": property(lambda self: np.minimum(self._faces.labels, 28))}
    )
    with pytest.raises(UserError, match="has no image"):
        build(source, tmp_path / "codes", BuildSettings(encoder=str(tmp_path / "missing.safetensors")))


def test_identities_that_are_but_numbers_are_not_inserted(tmp_path: Path) -> None:
    source, encoder = embedded(tmp_path, FACES)
    table = build(source, tmp_path / "codes", BuildSettings(encoder=encoder))
    others = Renumbered(source)
    others.__class__ = type("Numbers", (Renumbered,), {"names": [str(label) for label in range(30)]})
    with pytest.raises(UserError, match="by number alone"):
        extend(table, others, tmp_path / "more", encoder=encoder)


def test_many_images_of_one_identity_are_drawn_by_its_name(tmp_path: Path) -> None:
    source, _ = embedded(tmp_path, FACES)
    seen_by: list[np.ndarray] = []

    def encode(images: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        seen_by.append(indices.numpy())
        return torch.nn.functional.one_hot(torch.zeros(len(images), dtype=torch.int64), 3).float()

    only = np.zeros(30, np.bool_)
    only[:20] = True
    seen = class_sums(source, encode, max_images=3, only=only, seed=0, where="test")
    assert seen.counts.tolist() == [3] * 20 + [0] * 10
    again = class_sums(source, encode, max_images=3, only=only, seed=0, where="test")
    assert (again.counts == seen.counts).all()
    half = len(seen_by) // 2
    assert (np.concatenate(seen_by[:half]) == np.concatenate(seen_by[half:])).all()


def test_an_image_without_an_embedding_is_named(tmp_path: Path) -> None:
    source, _ = embedded(tmp_path, FACES)
    with pytest.raises(UserError, match=r"gives no embedding of synthetic.* identity 0 image 0"):
        class_sums(
            source, lambda images, _: torch.zeros(len(images), 3), max_images=None, seed=0, where="test"
        )


# --- CLIP, without its package -----------------------------------------------------------------------------


def clip_folder(folder: Path) -> str:
    (folder / "clip").mkdir()
    (folder / "clip" / "config.json").write_text('{"model_type": "clip"}')
    return str(folder / "clip")


def test_clip_without_transformers_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'topoface\[clip\]'"):
        open_image_encoder(clip_folder(tmp_path), fingerprint="")


def test_clip_sees_large_images_in_its_own_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tower(torch.nn.Module):
        def forward(self, pixel_values: torch.Tensor) -> Any:
            assert pixel_values.shape[1:] == (3, 224, 224)
            return SimpleNamespace(image_embeds=pixel_values.mean((2, 3)))

    class Loader:
        @staticmethod
        def from_pretrained(
            path: str, *, local_files_only: bool, output_loading_info: bool
        ) -> tuple[Tower, dict[str, list[str]]]:
            assert local_files_only
            assert output_loading_info
            if "broken" in path:
                raise OSError("no file named model.safetensors")
            return Tower(), {"missing_keys": ["visual_projection.weight"] if "part" in path else []}

    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(CLIPVisionModelWithProjection=Loader))
    encode = open_image_encoder(clip_folder(tmp_path), fingerprint="")
    grey = torch.full((2, 3, 112, 112), 51, dtype=torch.uint8)
    expected = (0.2 - torch.tensor([0.48145466, 0.4578275, 0.40821073])) / torch.tensor(
        [0.26862954, 0.26130258, 0.27577711]
    )
    rows = encode(grey, torch.arange(2))
    torch.testing.assert_close(rows[0], torch.nn.functional.normalize(expected, dim=0), atol=1e-5, rtol=0)
    (tmp_path / "clip").rename(tmp_path / "part")
    with pytest.raises(UserError, match=r"lacks visual_projection\.weight"):
        open_image_encoder(str(tmp_path / "part"), fingerprint="")
    (tmp_path / "part").rename(tmp_path / "broken")
    with pytest.raises(UserError, match="no file named"):
        open_image_encoder(str(tmp_path / "broken"), fingerprint="")


# --- the command line --------------------------------------------------------------------------------------


def test_commands_build_describe_and_insert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, encoder = embedded(tmp_path, FACES)
    _, more = embedded(tmp_path, MORE)
    codes = str(tmp_path / "codes")
    arguments = [
        "codes",
        "build",
        FACES,
        "--encoder",
        encoder,
        "--out",
        codes,
        "--kind",
        "aligned",
        "--shape",
        "4,5,6",
    ]
    assert cli.main([*arguments, "--alpha", "none", "--seed", "3"]) == 0
    table = open_table(codes)
    assert (table.alphabets, table.meta["alpha"], table.meta["seed"]) == ((4, 5, 6), None, 3)
    said = capsys.readouterr().out
    assert "30, 120 images of them looked at" in said
    assert cli.main(["codes", "info", codes, "--verify"]) == 0
    assert "every file is as it was written" in capsys.readouterr().out
    assert cli.main(["codes", "insert", codes, MORE, "--encoder", more, "--out", str(tmp_path / "more")]) == 0
    assert "10 identities added, no code changed" in capsys.readouterr().out
    assert cli.main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert cli.main(["codes", "info", str(tmp_path)]) == 2


@pytest.mark.parametrize("wrong", [["--alpha", "x"], ["--kind", "y"], ["--shape", "z"], ["--dimension", "1"]])
def test_mistakes_are_one_line(tmp_path: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["codes", "build", FACES, "--encoder", "random", "--out", str(tmp_path / "codes"), *wrong]
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.strip().count("\n") == 0
    assert not (tmp_path / "codes").exists()


def test_kinds_on_the_command_line_are_those_there_are() -> None:
    from topoface.cli.codes import _KINDS

    assert _KINDS == KINDS


@needs_data
def test_real_faces_go_through_an_onnx_encoder(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    source = open_source(DATA / "train")
    encode = open_image_encoder(str(DATA / "models" / "mobilefacenet_insightface.onnx"), fingerprint="")
    only = np.zeros(source.identities, np.bool_)
    only[:25] = True
    seen = class_sums(source, encode, max_images=2, only=only, seed=0, where="test")
    assert (seen.counts[:25] == 2).all()
    means = oracle.unit(seen.means(np.arange(25)))
    assert (means @ means.T)[np.triu_indices(25, 1)].mean() < 0.3
