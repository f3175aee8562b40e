"""Draws a contact sheet of synthetic faces: one row a person, one column a picture of them.

python examples/draw_synthetic_faces.py faces.png --identities 5 --images 8
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from topoface.data.synthetic import draw_face


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the image to write: .png, or .jpg for a tenth of the size")
    parser.add_argument("--identities", type=int, default=5)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the first identity")
    args = parser.parse_args()
    people = range(args.first, args.first + args.identities)
    rows = [np.hstack([draw_face(args.seed, who, image) for image in range(args.images)]) for who in people]
    Image.fromarray(np.vstack(rows)).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
