"""Stand-ins for a network and faces: what tells people apart lies in one colour, in nine small places, at one scale."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from topoface.diagnostics.doctor.contracts import Sample
from topoface.diagnostics.doctor.network import Contract, Network, even
from topoface.diagnostics.doctor.separation import draw_weights

PEOPLE, SHOTS = 40, 3
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
    return Sample(faces=images, pairs=who * SHOTS + shots, weights=draw_weights(person == other, who))
