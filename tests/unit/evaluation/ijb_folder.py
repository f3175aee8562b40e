"""A generated folder in the layout of IJB-C: people, their pictures and videos, landmarks, pairs, galleries, probes."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.unit.evaluation.faces import face

TURN, SHIFT = 1.25, (20, 12)  # the loose crop shows the face this much larger, and there
POINTS = [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]


def ijb_folder(root: Path, people: int = 8, *, noise: float = 20.0, images: bool = True) -> Path:
    """Per person: template 2 p of a picture and two frames, template 2 p + 1 of two pictures. The last two are in no gallery."""
    meta, crops = root / "meta", root / "loose_crop"
    meta.mkdir(parents=True)
    crops.mkdir()
    listed, scored = [], []
    marks = " ".join(f"{TURN * x + SHIFT[0]:.3f} {TURN * y + SHIFT[1]:.3f}" for x, y in POINTS)
    rng = np.random.default_rng(0)
    for person in range(people):
        layout = [(0, 0), (0, 1), (0, 1), (1, 2), (1, 3)]  # template, medium
        for picture, (template, medium) in enumerate(layout):
            name = f"{person * len(layout) + picture + 1}.png"
            listed.append(f"{name} {100 + 2 * person + template} {10 * person + medium}")
            scored.append(f"{name} {marks} {rng.uniform(0.5, 1):.4f}")
            if images:
                _loose(face(person, picture, noise)).save(crops / name)
    pairs = [f"{100 + 2 * a} {101 + 2 * b} {int(a == b)}" for a in range(people) for b in range(people)]
    first, second = range(people // 2), range(people // 2, people - 2)
    lists = {
        "ijbc_face_tid_mid.txt": listed,
        "ijbc_name_5pts_score.txt": scored,
        "ijbc_template_pair_label.txt": pairs,
        "ijbc_1N_gallery_G1.csv": _people(first, 0),
        "ijbc_1N_gallery_G2.csv": _people(second, 0),
        "ijbc_1N_probe_mixed.csv": _people(range(people), 1),
    }
    for name, lines in lists.items():
        (meta / name).write_text("\n".join(lines) + "\n")
    return root


def _people(people: range, template: int) -> list[str]:
    # The official lists have a line an image and more columns.
    rows = [f"{100 + 2 * p + template},subject {p},img/{p}_{k}.png,12" for p in people for k in range(2)]
    return ["TEMPLATE_ID,SUBJECT_ID,FILENAME,FACE_X", *rows]


def _loose(aligned: np.ndarray) -> Image.Image:
    """The face inside a larger picture, so that only alignment by the landmarks finds it again."""
    side = round(112 * TURN)
    crop = Image.new("RGB", (side + 2 * SHIFT[0], side + 2 * SHIFT[1]), (90, 30, 200))
    crop.paste(Image.fromarray(aligned).resize((side, side), Image.Resampling.BICUBIC), SHIFT)
    return crop
