"""Has a model shrunk its embeddings? Scale and bias of its last normalisation, and how alike different people are.

python examples/embedding_scale.py PAIRS MODEL [MODEL ...]
"""

import sys

import numpy as np
import torch

from topoface.evaluation import open_protocol
from topoface.models import load

IMAGES = 200


def main(pairs: str, *models: str) -> None:
    images = open_protocol(pairs).images
    positions = np.unique(np.linspace(0, len(images) - 1, IMAGES).astype(int))
    faces = np.stack([images[int(i)] for i in positions])
    for path in models:
        model = load(path)
        with torch.no_grad():
            norms = model(torch.from_numpy(faces).permute(0, 3, 1, 2)).norm(dim=1)
        units = model.embed(faces)
        cosines = (units @ units.T)[np.triu_indices(len(units), 1)]
        last = model.backbone.features
        print(
            f"{path}: scale {last.weight.detach().abs().mean():.3f}, bias norm {last.bias.detach().norm():.2f}, "
            f"embedding norm {norms.mean():.2f}, mean cosine of different images {cosines.mean():.3f}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
