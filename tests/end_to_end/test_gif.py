"""GIF from pictures to verification, through the command line: what makes vectors and codes good makes models good (oracle 28 of its spec).

Coloured patterns stand for faces, so that a net of seconds can tell strangers apart; on real faces ``studies/gif.yaml`` asks the same.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from topoface.cli import main
from topoface.codes.table import open_table
from topoface.data import open_source

IDENTITIES, NEW = 80, 8
MODEL = ["model.name=iresnet_tiny", "model.dimension=32"]


def pattern(identity: int, image: int) -> np.ndarray:
    """An identity is 4 x 4 colours, blurred; its images differ in turn, place, light, a patch that hides a part, and noise."""
    colours = np.random.default_rng(identity).normal(size=(4, 4, 3))
    rng = np.random.default_rng((identity, 1 + image))
    planes = [
        np.asarray(Image.fromarray(plane).resize((160, 160), Image.Resampling.BICUBIC))
        for plane in np.moveaxis(colours.astype(np.float32), 2, 0)
    ]
    whole = Image.fromarray(np.clip(127.5 + 45 * np.stack(planes, 2), 0, 255).astype(np.uint8))
    x, y = (int(v) for v in 24 + rng.uniform(-6, 6, 2))
    turned = whole.rotate(rng.uniform(-9, 9), Image.Resampling.BILINEAR).crop((x, y, x + 112, y + 112))
    pixels = 127.5 + (np.asarray(turned, np.float64) - 127.5) * rng.uniform(0.7, 1) + rng.uniform(-24, 24, 3)
    left, top = rng.integers(0, 72, 2)
    pixels[top : top + 40, left : left + 40] = rng.uniform(0, 255, 3)
    return np.clip(pixels + rng.normal(scale=10, size=pixels.shape), 0, 255).astype(np.uint8)


def draw(folder: Path, first: int, identities: int, images: int) -> Path:
    for identity in range(first, first + identities):
        place = folder / f"person_{identity:06d}"
        place.mkdir(parents=True, exist_ok=True)
        for image in range(images):
            Image.fromarray(pattern(identity, image)).save(place / f"{image}.jpg", quality=92)
    return folder


def topoface(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A folder with faces, strangers, an encoder and tables."""

    folder: Path

    def train(self, name: str, recipe: str, *overrides: str) -> Path:
        faces, run = self.folder / "faces", self.folder / name
        small = [
            f"data.train={faces}",
            *MODEL,
            "training.epochs=12",
            "training.batch_size=32",
            "schedule.warmup_epochs=0.5",
        ]
        topoface("train", recipe, *small, *overrides, "--quiet", "--run-dir", run)
        return run

    def build(self, name: str, *options: object) -> None:
        topoface("codes", "build", self.folder / "faces", *options, "--out", self.folder / name)

    def tar(self, run: Path, far: float) -> float:
        """TAR in % at a FAR, over all pairs of strangers, by the model alone."""
        strangers, out = f"all-pairs:{self.folder / 'strangers'}", run / "strangers.json"
        topoface("evaluate", run / "model", strangers, "--json", out, "--cache", "none")
        (judged,) = json.loads(out.read_text())
        (point,) = (point for point in judged["tar_at_far"] if point["target"] == far)
        assert not point["warning"]
        return 100 * float(point["tar"]["value"])

    def with_table(self, table: str) -> str:
        return f"head.init_args.table={self.folder / table}"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Faces, an encoder trained on them, and three tables."""
    folder = tmp_path_factory.mktemp("gif")
    draw(folder / "faces", 0, IDENTITIES, 8)
    draw(folder / "strangers", 100_000, 80, 5)
    bench = Bench(folder=folder)
    encoder = bench.train("encoder", "arcface_small", "head.init_args.scale=16", "head.init_args.margin=0.1")
    bench.build("rq", "--encoder", encoder / "model")
    bench.build("random", "--encoder", encoder / "model", "--kind", "random")
    bench.build("drawn", "--encoder", "random", "--dimension", open_table(folder / "rq").meta["dimension"])
    return bench


@pytest.mark.slow
def test_vectors_of_a_good_encoder_teach_far_more_than_random_vectors(bench: Bench) -> None:
    tar = {}
    for name in ("rq", "drawn"):
        run = bench.train(f"frozen_{name}", "gif_small", bench.with_table(name), "head.preset=frozen_all")
        tar[name] = bench.tar(run, 1e-3)
    assert tar["rq"] > tar["drawn"] + 10


@pytest.mark.slow
def test_codes_with_a_meaning_teach_and_are_decoded_better_than_random_codes_of_equal_size(
    bench: Bench,
) -> None:
    tables = [open_table(bench.folder / name) for name in ("rq", "random")]
    assert tables[0].alphabets == tables[1].alphabets
    tar, right = {}, {}
    for name in ("rq", "random"):
        run = bench.train(f"{name}_tokens", "gif_tokens_small", bench.with_table(name))
        tar[name] = bench.tar(run, 1e-2)
        topoface("codes", "decode", run, "--samples", 200, "--out", run / "decoded")
        right[name] = json.loads((run / "decoded/decoded.json").read_text())["right"]["first"]["value"]
    assert tar["rq"] > tar["random"] + 5
    assert right["rq"] > max(right["random"], 10 / IDENTITIES), "ten times chance"


@pytest.mark.slow
def test_people_who_come_later_get_codes_and_the_next_run_learns_them(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = draw(bench.folder / "faces_and_more", 0, IDENTITIES + NEW, 3)
    topoface("codes", "insert", bench.folder / "rq", faces, "--out", bench.folder / "more")
    topoface("codes", "info", bench.folder / "more", "--verify")
    old, more = open_table(bench.folder / "rq"), open_table(bench.folder / "more")
    assert more.num_identities == IDENTITIES + NEW
    kept = more.rows_of(list(old.uids), "the old ones")
    assert (more.tokens(kept) == old.tokens(np.arange(IDENTITIES))).all()
    against = ("--run", bench.folder / "encoder", "--source", faces, "--out", bench.folder / "report")
    topoface("codes", "report", bench.folder / "more", *against)
    assert "minority collapse" in capsys.readouterr().out
    run = bench.folder / "more_run"
    topoface(
        *("train", "gif_small", f"data.train={faces}", *MODEL, "training.steps=4", "training.batch_size=32"),
        *(bench.with_table("more"), "--quiet", "--run-dir", run),
    )
    assert (run / "model").is_dir()


@pytest.mark.slow
def test_labels_that_were_planted_wrong_are_doubted_first(bench: Bench) -> None:
    faces, rng = bench.folder / "mislabelled", np.random.default_rng(0)
    draw(faces, 0, IDENTITIES, 8)
    for place in rng.choice(IDENTITIES * 8, IDENTITIES * 8 // 20, replace=False).tolist():  # one in twenty
        who, image = divmod(place, 8)
        other = (who + int(rng.integers(1, IDENTITIES))) % IDENTITIES
        wrong = faces / f"person_{other:06d}" / f"{image}_of_{who}.jpg"
        (faces / f"person_{who:06d}" / f"{image}.jpg").rename(wrong)
    overrides = (f"data.train={faces}", bench.with_table("rq"))
    run = bench.train("mislabelled_run", "gif_tokens_small", *overrides)
    topoface("codes", "decode", run, "--out", run / "decoded")
    source = open_source(str(faces))
    total = sum("_of_" in source.describe(i) for i in range(len(source)))
    lines = (run / "decoded/decoded_samples.csv").read_text().splitlines()[1:]
    planted = ["_of_" in source.describe(int(line.split(",")[0])) for line in lines]
    assert total == IDENTITIES * 8 // 20
    assert sum(planted[:total]) > total / 3, "a twentieth by chance"
    assert sum(planted) > 0.9 * total
