"""What a table takes from images and encoder: both sides of a face, all images counted, and the maps that new identities go through."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tests.oracles import code_vectors as oracle
from tests.unit.codes.test_build import FACES, MORE, Renumbered, embedded
from topoface.codes import extend as extending
from topoface.codes.build import BuildSettings, build, code_vectors
from topoface.codes.description import describe
from topoface.codes.encoders import encoder_digest
from topoface.codes.encoding import class_sums
from topoface.codes.extend import extend
from topoface.codes.space import measure_treatment
from topoface.codes.statistics import ClassSums
from topoface.data import Source, open_source
from topoface.errors import UserError


def test_an_image_counts_with_its_mirror_image(tmp_path: Path) -> None:
    source = open_source("synthetic:?identities=3&images=1&seed=0")

    def left_half(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        values = images[..., :56].float().mean((2, 3))
        return torch.nn.functional.normalize(values)

    seen = class_sums(source, left_half, max_images=None, seed=0, where="test")
    for label in range(3):
        image = np.asarray(source[label][0], np.float64)
        halves = [image[:, :56].mean((0, 1)), image[:, 56:].mean((0, 1))]
        expected = sum(half / np.linalg.norm(half) for half in halves)
        np.testing.assert_allclose(seen.sums[label], expected / np.linalg.norm(expected), atol=1e-6)


def uneven(source: Source) -> Source:
    """The same faces, names in another order, the last picture given to somebody else."""
    faces = Renumbered(source)
    labels = np.array(faces.labels)
    labels[-1] = (labels[-1] + 1) % source.identities
    faces.__class__ = type("Uneven", (Renumbered,), {"labels": property(lambda _: labels)})
    return faces


def test_all_images_of_an_identity_are_remembered_however_few_were_looked_at(tmp_path: Path) -> None:
    def expected(uids: Sequence[str], faces: Source) -> list[int]:
        owners = [faces.names[label] for label in faces.labels]
        return [owners.count(uid) for uid in uids]

    source, encoder = embedded(tmp_path, FACES)
    faces = uneven(source)
    table = build(faces, tmp_path / "codes", BuildSettings(encoder=encoder, max_images=2))
    assert table.meta["images"] == 60
    assert table.folder.array("images").tolist() == expected(table.uids, faces)
    assert set(table.folder.array("images").tolist()) == {3, 4, 5}
    more, encoder = embedded(tmp_path, MORE)
    others = uneven(more)
    wider = extend(table, others, tmp_path / "more", encoder=encoder)
    assert wider.meta["images"] == 80
    found = dict(zip(wider.uids, wider.folder.array("images").tolist(), strict=True))
    old = list(table.uids)
    assert [found[uid] for uid in old] == table.folder.array("images").tolist()
    new = [uid for uid in wider.uids if uid not in set(old)]
    assert [found[uid] for uid in new] == expected(new, others)


def test_new_vectors_go_through_the_stored_map_and_not_through_one_of_their_own(tmp_path: Path) -> None:
    """Oracle 24: a changed mean of the new identities must not matter, nor who comes with them."""
    source, encoder = embedded(tmp_path, FACES)
    table = build(source, tmp_path / "codes", BuildSettings(encoder=encoder, alpha=0.5))
    more, encoder = embedded(tmp_path, MORE)
    wider = extend(table, more, tmp_path / "more", encoder=encoder)
    rows = load_file(encoder)["rows"]
    center, matrix = (np.array(table.folder.array(name)) for name in ("center", "matrix"))
    for label, name in enumerate(more.names):
        if name in set(source.names):
            continue
        mean = rows[np.asarray(more.labels) == label].astype(np.float64).mean(0)
        expected = oracle.unit(((mean - center) @ matrix)[None])[0]
        found = wider.unit_vectors(wider.rows_of([name], "here"))[0]
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_too_many_new_identities_are_told_before_the_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, encoder = embedded(tmp_path, FACES)
    table = build(source, tmp_path / "codes", BuildSettings(encoder=encoder, shape="6x2"))
    monkeypatch.setattr(extending, "read_classes", None)
    with pytest.raises(UserError, match="is full: 40 identities for 36 codes"):
        extend(table, open_source(MORE), tmp_path / "more", encoder=encoder)
    assert not (tmp_path / "more").exists()


def test_two_identities_of_one_name_are_told_before_the_images_are_read(tmp_path: Path) -> None:
    source = Renumbered(open_source(FACES))
    source.__class__ = type("Twice", (Renumbered,), {"names": ["ann", "bob", *["ann"] * 28]})
    with pytest.raises(UserError, match="two identities are named 'ann'"):
        build(source, tmp_path / "codes", BuildSettings(encoder=str(tmp_path / "missing.safetensors")))


def test_an_encoder_that_has_gone_is_not_taken_for_another_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone: does not exist; say where the encoder lies now"):
        encoder_digest(str(tmp_path / "gone"))


def test_wiener_lets_identities_of_many_images_say_more_of_the_map() -> None:
    rng = np.random.default_rng(0)
    counts = np.array([1] * 20 + [200] * 20)
    labels = np.repeat(np.arange(40), counts)
    middle = rng.normal(size=(40, 4)) + np.array([3.0, 0, 0, 0])
    seen = ClassSums.empty(40, 4)
    seen.add(middle[labels] + 4 * rng.normal(size=(len(labels), 4)), labels)
    settings = BuildSettings(encoder=__file__, shrink="wiener", alpha=0.0)
    _, arrays, facts = code_vectors(seen, np.arange(40), settings, 4, "test", lambda *_: None)
    filtered = (
        arrays["shrink_center"]
        + (
            ((seen.sums / counts[:, None] - arrays["shrink_center"]) @ arrays["shrink_inverse"].T)
            * (arrays["shrink_gain"] / (arrays["shrink_gain"] + 1 / counts[:, None]))
        )
        @ arrays["shrink_basis"].T
    )
    weights = counts / (counts + facts["kappa"])
    expected = (weights[:, None] * filtered).sum(0) / weights.sum()
    np.testing.assert_allclose(arrays["center"], expected, atol=1e-5)
    assert np.abs(arrays["center"] - filtered.mean(0)).max() > 1e-3, "else this test says nothing"


# --- how they lie beside the means they were made of ---------------------------------------------------------


def test_travel_and_kept_neighbours_are_those_that_counting_finds() -> None:
    rng = np.random.default_rng(0)
    means, vectors = 3 * rng.normal(size=(40, 3)), oracle.unit(rng.normal(size=(40, 3)))
    before, kept, angles = oracle.unit(means), 0, []
    for i in range(40):
        others = [j for j in range(40) if j != i]
        ten = [
            set(sorted(others, key=lambda j: -float(rows[i] @ rows[j]))[:10]) for rows in (before, vectors)
        ]
        kept += len(ten[0] & ten[1])
        angles.append(np.arccos(before[i] @ vectors[i]))
    found = measure_treatment(means, vectors)
    assert found.kept_neighbours == pytest.approx(kept / 400)
    assert found.travel == pytest.approx(np.mean(angles))
    assert measure_treatment(means, oracle.unit(rng.normal(size=(40, 5)))).travel is None
    assert measure_treatment(means[:2], vectors[:2]).kept_neighbours == 1
    assert measure_treatment(means, before).kept_neighbours == 1


@pytest.mark.parametrize("change", [{"dimension": 20}, {"alpha": None}, {"alpha": 0.5}])
def test_a_table_says_how_far_its_vectors_went_from_the_means(tmp_path: Path, change: dict[str, Any]) -> None:
    source, encoder = embedded(tmp_path, FACES)
    table = build(source, tmp_path / "codes", BuildSettings(encoder=encoder, **change))
    said = dict(describe(table))["beside the means"]
    assert ("turned by" in said) == (change != {"dimension": 20})
    if change == {"alpha": None}:
        assert (
            said == "100% of the ten nearest are those of the encoder's means, turned by 0 degrees on average"
        )
    more, encoder = embedded(tmp_path, MORE)
    wider = extend(table, more, tmp_path / "more", encoder=encoder)
    assert "beside the means" not in dict(describe(wider)), "it was said of the old ones"


def test_many_positions_take_one_line_and_not_ten(tmp_path: Path) -> None:
    table = build(
        open_source(FACES), tmp_path / "codes", BuildSettings(encoder="random", dimension=8, shape="2x30")
    )
    said = dict(describe(table))
    assert said["tokens unused"].count(" of 2") == 6
    assert ".." in said["most frequent"]
    assert max(map(len, said.values())) < 150
