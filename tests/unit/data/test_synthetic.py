"""Drawn faces are pure functions of their arguments, hard to tell apart by pixels alone, and judged by clean pairs."""

import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.data.recfile import write_folder
from topoface.data import open_source, synthetic
from topoface.data.drawing.canvas import TEMPLATE, Canvas
from topoface.data.drawing.picture import picture
from topoface.data.drawing.traits import Colours, Person, Shot, sample
from topoface.data.synthetic import SyntheticSource, draw_face, synthetic_pairs
from topoface.errors import UserError
from topoface.functional.draws import generator

EXAMPLE = Path(__file__).parents[3] / "examples" / "draw_synthetic_faces.py"


def person(identity: int) -> Person:
    return sample(Person, generator(0, "identity", identity))


def plain_shot(**changes: float) -> Shot:
    """Straight on, nothing before the face, no error of alignment."""
    middle = {each.name: sum(each.metadata["span"]) / 2 for each in fields(Shot)}
    nothing = {"cover": 1.0, "glasses": 1.0, "hair_worn": 1.0, "blur": -1.0, "noise": 0.0, "zoom": 1.0}
    return Shot(**(middle | nothing | changes))


class TestDrawing:
    def test_a_face_is_112_pixels_of_rgb_bytes(self) -> None:
        face = draw_face(0, 3, 4)
        assert (face.dtype, face.shape) == (np.uint8, (112, 112, 3))
        assert face.flags.c_contiguous

    def test_the_same_arguments_give_the_same_bytes_in_any_order_and_thread(self) -> None:
        keys = [(seed, who, image) for seed in (0, 1) for who in range(4) for image in range(3)]
        expected = {key: draw_face(*key).tobytes() for key in keys}
        assert len(set(expected.values())) == len(keys)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda key: draw_face(*key).tobytes(), keys[::-1] * 3))
        assert found == [expected[key] for key in keys[::-1]] * 3

    def test_the_same_picture_number_means_nothing_across_identities(self) -> None:
        corners = np.array([draw_face(0, who, 0)[:6, :6].mean(axis=(0, 1)) for who in range(12)])
        assert (corners.std(axis=0) > 10).all()

    def test_no_global_generator_is_read_or_set(self) -> None:
        np.random.seed(1)  # noqa: NPY002
        first = draw_face(0, 1, 1)
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        assert np.array_equal(draw_face(0, 1, 1), first)
        assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002

    def test_every_trait_and_circumstance_shows(self) -> None:
        """A field that changes no picture would be a promise that is not kept."""
        who, shot = person(4), plain_shot(opening=0.6)
        worn = {"beard": 0.9, "moustache": 0.95, "freckles": 0.9, "mole": 0.9, "fold": 2.0, "lip_bow": 0.5}
        who = replace(who, **worn, hair_style=5.5, hair_grey=0.5, iris_tone=0.2, hair_tone=0.3, skin_tone=0.4)

        # what belongs to glasses and covers shows only with them
        aside = {"glasses_shape": {"glasses": 0.1}, "cover_x": {"cover": 0.26}, "cover_y": {"cover": 0.26}}
        for base in (who, shot):
            for each in fields(base):
                low, high = each.metadata["span"]
                looks = set()
                for value in (low, 0.7 * low + 0.3 * high, 0.05 * low + 0.95 * high):
                    changed = replace(base, **{each.name: value}, **aside.get(each.name, {}))
                    pair = (changed, shot) if base is who else (who, changed)
                    looks.add(picture(*pair, generator(0, "scene")).tobytes())
                assert len(looks) > 1, each.name

    def test_faces_lie_on_the_template(self) -> None:
        distances = []
        for who in map(person, range(60)):
            canvas = Canvas(who, plain_shot())
            assert canvas.x.dtype == canvas.pixels.dtype == np.float32
            marks = [(-who.eye_x, 0.0), (who.eye_x, 0.0), (0.0, who.nose_length)]
            marks += [(-who.mouth_width, who.mouth_y), (who.mouth_width, who.mouth_y)]
            for (x, y), wanted in zip(marks, TEMPLATE, strict=True):
                row, column = np.unravel_index(
                    np.argmin((canvas.x - x) ** 2 + (canvas.y - y) ** 2), (112, 112)
                )
                distances.append(complex(column, row) - wanted)
        offsets = np.array(distances).reshape(60, 5)
        assert np.abs(offsets).max() < 7  # persons differ
        assert np.abs(offsets.mean(axis=0)).max() < 2  # the average person is the template

    @pytest.mark.parametrize("yaw", [-0.53, 0.53])
    @pytest.mark.parametrize("pitch", [-0.28, 0.28])
    def test_a_turned_head_shows_each_point_once(self, yaw: float, pitch: float) -> None:
        canvas = Canvas(person(0), plain_shot(yaw=yaw, pitch=pitch))
        assert (np.diff(canvas.x, axis=1) > 0).mean() > 0.999
        assert (np.diff(canvas.y, axis=0) > 0).mean() > 0.999

    def test_identity_is_geometry_that_survives_without_colour(self) -> None:
        """Under plain conditions the nearest grey picture is the same person's, though the pose changed."""
        grey = np.array(
            [
                [
                    picture(
                        person(who),
                        plain_shot(yaw=yaw, smile=0.2 + yaw),
                        generator(0, "scene", who, int(yaw > 0)),
                    )
                    .mean(axis=2)[20:100, 20:92]
                    .ravel()
                    for who in range(40)
                ]
                for yaw in (-0.06, 0.06)
            ]
        )
        grey -= grey.mean(axis=2, keepdims=True)
        grey /= np.linalg.norm(grey, axis=2, keepdims=True)
        nearest = (grey[0] @ grey[1].T).argmax(axis=1)
        assert (nearest == np.arange(40)).mean() > 0.9

    def test_skin_and_hair_cover_a_natural_range(self) -> None:
        inks = [Colours.of(person(who)) for who in range(300)]
        skin = np.array([ink.skin.mean() for ink in inks])
        hair = np.array([ink.hair.mean() for ink in inks])
        for found in (skin, hair):
            assert np.percentile(found, 5) < 70
            assert np.percentile(found, 95) > 180
        dark_skin_fair_hair = (
            (skin < 100) & (hair > 120) & [person(who).hair_grey <= 0.86 for who in range(300)]
        )
        assert not dark_skin_fair_hair.any()


@pytest.fixture(scope="module")
def unseen() -> SyntheticSource:
    return SyntheticSource(80, 5, first_identity=100_000)


@pytest.mark.parametrize("centred", [False, True])
def test_raw_pixels_verify_hardly_better_than_chance(unseen: SyntheticSource, centred: bool) -> None:
    pairs, same, _ = synthetic_pairs(unseen, 160)
    faces = np.stack([image[::2, ::2] for image, _ in unseen]).reshape(400, -1).astype(np.float32)
    if centred:
        faces -= faces.mean(axis=0)
    faces /= np.linalg.norm(faces, axis=1, keepdims=True)
    scores = (faces @ faces.T)[pairs[:, 0], pairs[:, 1]]
    best = max(((scores >= threshold) == same).mean() for threshold in scores)
    assert 0.5 < best < 0.65


class TestSource:
    def test_labels_are_positions_divided_by_images(self) -> None:
        source = SyntheticSource(4, 3, seed=2, first_identity=7)
        assert (len(source), source.identities) == (12, 4)
        assert source.labels.dtype == np.int64
        for i in range(12):
            image, label = source[i]
            assert label == source.labels[i] == i // 3
            assert np.array_equal(image, draw_face(2, 7 + i // 3, i % 3))

    def test_its_uri_opens_the_same_faces(self) -> None:
        source = SyntheticSource(3, 2, seed=5, first_identity=9)
        again = open_source(source.uri)
        assert again.uri == source.uri == "synthetic:?identities=3&images=2&seed=5&first=9"
        assert again.fingerprint() == source.fingerprint()
        assert np.array_equal(again[5][0], source[5][0])

    def test_the_fingerprint_follows_every_argument(self) -> None:
        variants = [(3, 2, 0, 0), (4, 2, 0, 0), (3, 3, 0, 0), (3, 2, 1, 0), (3, 2, 0, 1)]
        prints = {SyntheticSource(n, k, seed=s, first_identity=f).fingerprint() for n, k, s, f in variants}
        assert len(prints) == len(variants)

    def test_a_face_is_drawn_once_and_then_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn: list[tuple[int, int, int]] = []

        def counting(*key: int) -> np.ndarray:
            drawn.append(key)
            return draw_face(*key)

        monkeypatch.setattr(synthetic, "draw_face", counting)
        source = SyntheticSource(2, 2)
        for _ in range(3):
            source[1][0][:] = 0  # the caller's own copy
        assert drawn == [(0, 0, 1)]
        assert np.array_equal(source[1][0], draw_face(0, 0, 1))

    def test_what_does_not_fit_is_not_kept_but_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kept = SyntheticSource(2, 3)
        monkeypatch.setattr(synthetic, "CACHE_BYTES", 5 * 112 * 112 * 3)
        source = SyntheticSource(2, 3)
        out = np.empty((112, 112, 3), np.uint8)
        for i in (0, 5, 5):
            source.read_into(i, out)
            assert np.array_equal(out, kept[i][0])
        assert source._faces.size == 0

    def test_a_sample_is_named_by_its_place_in_the_population(self) -> None:
        assert SyntheticSource(3, 2, first_identity=9).describe(5).endswith("first=9 identity 11 image 1")

    @pytest.mark.parametrize(
        ("identities", "images", "options", "message"),
        [
            (1, 5, {}, "only 1 identity; give two or more"),
            (0, 5, {}, "only 0 identities"),
            (5, 0, {}, "0 images of each identity; give one or more"),
            (5, 5, {"seed": -1}, "negative"),
            (5, 5, {"first_identity": -1}, "negative"),
        ],
    )
    def test_bad_arguments_are_refused(
        self, identities: int, images: int, options: dict[str, int], message: str
    ) -> None:
        with pytest.raises(UserError, match=message):
            SyntheticSource(identities, images, **options)


class TestPairs:
    @pytest.fixture
    def source(self) -> SyntheticSource:
        return SyntheticSource(43, 6)

    def test_no_identity_is_in_two_folds(self, source: SyntheticSource) -> None:
        pairs, _, folds = synthetic_pairs(source, 40, 10)
        people = [set(source.labels[pairs[folds == fold]].ravel()) for fold in range(10)]
        assert sum(map(len, people)) == len(set().union(*people))

    def test_half_of_each_fold_is_genuine_and_same_says_so(self, source: SyntheticSource) -> None:
        pairs, same, folds = synthetic_pairs(source, 41, 7)
        assert (pairs.shape, pairs.dtype, same.dtype, folds.dtype) == ((287, 2), np.int64, np.bool_, np.int64)
        assert np.array_equal(same, source.labels[pairs[:, 0]] == source.labels[pairs[:, 1]])
        assert [(same & (folds == fold)).sum() for fold in range(7)] == [20] * 7
        assert np.bincount(folds).tolist() == [41] * 7

    def test_no_pair_occurs_twice_and_no_image_meets_itself(self, source: SyntheticSource) -> None:
        pairs, _, _ = synthetic_pairs(source, 100, 10)
        assert (pairs[:, 0] != pairs[:, 1]).all()
        assert len(np.unique(np.sort(pairs, axis=1), axis=0)) == len(pairs)

    def test_they_are_a_function_of_the_seed(self, source: SyntheticSource) -> None:
        first, again, other = (synthetic_pairs(source, 40, 10, seed=seed)[0] for seed in (0, 0, 1))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_all_pairs_can_be_asked_for_and_no_more(self) -> None:
        source = SyntheticSource(4, 3)  # two identities a fold: 6 genuine, 9 impostor pairs
        assert len(synthetic_pairs(source, 12, 2)[0]) == 24
        with pytest.raises(
            UserError, match=r"14 pairs a fold cannot be made of 2 identities with 3 images each; ask"
        ):
            synthetic_pairs(source, 14, 2)

    def test_other_sources_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="is no synthetic source; give a URI"):
            synthetic_pairs(open_source(write_folder(tmp_path)))

    def test_more_folds_than_pairs_of_identities_are_refused(self) -> None:
        with pytest.raises(UserError, match="cannot be made of 1 identities"):
            synthetic_pairs(SyntheticSource(9, 6), 2, 9)


def test_the_example_draws_its_contact_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "faces.png"
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(out), "--identities", "2", "--images", "3"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    with Image.open(out) as sheet:
        assert sheet.size == (336, 224)
