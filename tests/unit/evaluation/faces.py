"""Small stand-ins for faces: blurred colour patterns that a ten-line embedder tells apart."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def face(person: int, picture: int, noise: float = 20.0) -> np.ndarray:
    """uint8 ``[112, 112, 3]``: the person's pattern of 7 x 7 tiles, and the picture's noise."""
    tiles = np.random.default_rng(person).uniform(0, 255, (7, 7, 3))
    spots = np.random.default_rng((person, picture)).normal(0, noise, (7, 7, 3))
    return np.clip(np.kron(tiles + spots, np.ones((16, 16, 1))), 0, 255).astype(np.uint8)


def jpeg(person: int, picture: int, noise: float = 20.0) -> bytes:
    data = io.BytesIO()
    Image.fromarray(face(person, picture, noise)).save(data, "jpeg", quality=90)
    return data.getvalue()


def embed(images: np.ndarray) -> np.ndarray:
    """float32 ``[n, 147]``: mean of each tile, around grey."""
    tiles = images.reshape(len(images), 7, 16, 7, 16, 3).mean(axis=(2, 4))
    return (tiles.reshape(len(images), -1) - 127.5).astype(np.float32)


def lfw_folder(root: Path, people: int = 20, noise: float = 20.0) -> Path:
    """``Name/Name_0001.jpg`` and ``_0002``, and a pairs.txt of two folds, in ``root``."""
    names = [f"Person_{chr(65 + i)}" for i in range(people)]
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for picture in (1, 2):
            (root / name / f"{name}_{picture:04d}.jpg").write_bytes(jpeg(number, picture, noise))
    half = people // 2
    lines = [f"2\t{half}"]
    for fold in (names[:half], names[half:]):
        lines += [f"{name}\t1\t2" for name in fold]
        lines += [f"{fold[i]}\t1\t{fold[(i + 1) % half]}\t2" for i in range(half)]
    (root / "pairs.txt").write_text("\n".join(lines) + "\n")
    return root
