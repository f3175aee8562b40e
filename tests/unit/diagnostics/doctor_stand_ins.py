"""Stand-ins for a network and faces: what tells people apart lies in one colour, in nine small places, at one scale."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.unit.evaluation.faces import face
from topoface.diagnostics.doctor.contracts import Sample
from topoface.diagnostics.doctor.faults import image_findings, look
from topoface.diagnostics.doctor.network import Contract, Network, even
from topoface.diagnostics.doctor.pair_faults import pair_findings
from topoface.diagnostics.doctor.separation import Known
from topoface.evaluation import open_protocol
from topoface.functional.influences import Meetings

FOLDS, PEOPLE, SHOTS = 4, 40, 3
RGB = even(127.5, 127.5)


def faces() -> NDArray[np.uint8]:
    """``[people * shots, 112, 112, 3]``: a person's pattern of red in nine windows; all else differs from shot to shot."""
    made = []
    for person in range(PEOPLE):
        own = np.random.default_rng(person).uniform(-80, 80, (12, 12))
        for shot in range(SHOTS):
            rng = np.random.default_rng((person, shot))
            image = np.kron(rng.uniform(20, 230, (14, 14, 3)), np.ones((8, 8, 1)))
            seen = np.kron(140 + own + rng.normal(0, 70, (12, 12)), np.ones((4, 4)))
            for row, column in np.ndindex(3, 3):
                window = seen[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
                image[16 + 32 * row : 32 + 32 * row, 16 + 32 * column : 32 + 32 * column, 0] = window
            made.append(image)
    return np.clip(np.stack(made), 0, 255).astype(np.uint8)


def run(inputs: NDArray[np.float32]) -> NDArray[Any]:
    """Wants RGB, (x - 127.5) / 127.5: reads the windows of the first channel; what is far from [-1, 1] says nothing."""
    red = torch.from_numpy(np.ascontiguousarray(inputs[:, :1]))
    tiles = torch.nn.functional.avg_pool2d(torch.where(red.abs() <= 1.02, red, 0.0), 4)[:, 0]
    inside = (torch.arange(28) // 4) % 2 == 1
    return torch.tanh(2 * tiles[:, inside][:, :, inside]).flatten(1).numpy()


def network(wants: Contract = RGB, declared: Contract = RGB) -> Network:
    """A network that wants its pixels in one way and says another."""

    def translate(inputs: NDArray[np.float32]) -> NDArray[Any]:
        rgb = inputs[:, ::-1] if wants.colour == "bgr" else inputs
        mean, divisor = (np.array(part, np.float32)[:, None, None] for part in (wants.mean, wants.divisor))
        return run((rgb * divisor + mean - 127.5) / 127.5)

    return Network(path="stand-in", declared=declared, source="a test", run=translate)


def sample(images: NDArray[np.uint8], pairs: int = 200) -> Sample:
    """Half of the pairs genuine."""
    rng = np.random.default_rng(5)
    person = rng.integers(PEOPLE, size=pairs)
    other = np.where(np.arange(pairs) % 2, person, (person + rng.integers(1, PEOPLE, pairs)) % PEOPLE)
    shots = np.stack([rng.permutation(SHOTS)[:2] for _ in range(pairs)])
    who = np.stack([person, other], axis=1)
    return Sample(faces=images, pairs=who * SHOTS + shots, known=Known(person == other, Meetings(who)))


class Folder:
    """Identities of three pictures each in four folds of different people, as files and a manifest."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: list[list[object]] = []
        for person in range(PEOPLE):
            for shot in range(SHOTS):
                self.write(person, shot, warm(face(person, shot)))
        share = PEOPLE // FOLDS
        for person in range(PEOPLE):
            fold = person // share
            other = fold * share + (person + 1) % share
            self.pair(person, 0, person, 1, fold)
            self.pair(person, 1, person, 2, fold)
            self.pair(person, 0, other, 1, fold)

    def name(self, person: int, shot: int) -> str:
        return f"p{person:02d}_{shot}.png"

    def write(self, person: int, shot: int, image: np.ndarray) -> None:
        path = self.root / self.name(person, shot)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)

    def copy(self, source: tuple[int, int], target: tuple[int, int]) -> None:
        (self.root / self.name(*target)).write_bytes((self.root / self.name(*source)).read_bytes())

    def pair(self, left: int, a: int, right: int, b: int, fold: int, same: bool | None = None) -> None:
        is_same = left == right if same is None else same
        self.rows.append([self.name(left, a), self.name(right, b), int(is_same), fold, left, right])

    def findings(self, *, named: bool = True) -> dict[str, tuple[str, str]]:
        with (self.root / "pairs.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            header = ["path1", "path2", "same", "fold", "identity1", "identity2"]
            writer.writerows([row if named else row[:4] for row in [header, *self.rows]])
        protocol = open_protocol(self.root / "pairs.csv")
        looks = look(protocol)
        found = image_findings(protocol, looks) + pair_findings(protocol, looks)
        return {finding.check: (finding.level, finding.text) for finding in found}


def warm(image: np.ndarray) -> np.ndarray:
    """More red than blue in the middle, as skin."""
    made = image.copy()
    made[..., 0] = 100 + image[..., 0] // 2
    made[..., 2] = image[..., 2] // 3
    return made
