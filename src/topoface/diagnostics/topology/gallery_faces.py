"""Faces of ``topoface topology gallery``, each beside the typical faces of its label and of what it was taken for."""

from collections.abc import Iterable, Mapping

import numpy as np

from topoface.data.source import spread
from topoface.diagnostics.opening import progress_bar
from topoface.diagnostics.page import Face
from topoface.diagnostics.prediction import (
    Integers,
    Predictions,
    Weights,
    class_centers,
    embed_training_images,
    sample_name,
)
from topoface.evaluation.images import SourceImages
from topoface.evaluation.report.page import jpeg_of
from topoface.functional.directions import unit_rows
from topoface.training.run import Run

SEARCHED = 24  # images of an identity among which its typical face is looked for


def compared_faces(
    run: Run, found: Predictions, weights: Weights, shown: Mapping[str, tuple[Integers, Integers]]
) -> dict[str, list[Face]]:
    """Faces with the typical ones of label and predicted identity, by the keys of ``shown``."""
    involved = {
        int(identity)
        for rows, predicted in shown.values()
        for who in (found.labels[rows], predicted[rows])
        for identity in who
    }
    typical = typical_faces(run, sorted(involved))
    p = found.target_log_probability.double().exp().numpy()

    def face(row: int, predicted: int) -> Face:
        position, label = int(found.positions[row]), int(found.labels[row])
        beside = [i for i in typical[label] if i != position][:1]
        said = f"label {label}, recognised"
        if predicted != label:
            beside += typical[predicted][:1]
            said = f"label {label}, taken for {predicted}"
        probability = f"{p[row]:.3f}" if p[row] >= 0.001 else f"{p[row]:.0e}"
        figures = f"ω {weights.omega[row]:.4f} · h {weights.hardness[row]:.4f} · p {probability}"
        return Face(
            jpeg=_jpeg(run, position),
            name=sample_name(run.source, position),
            lines=[figures, said, sample_name(run.source, position)],
            beside=[(_jpeg(run, i), f"typical: {sample_name(run.source, i)}") for i in beside],
        )

    return {
        key: [face(int(row), int(predicted[row])) for row in rows] for key, (rows, predicted) in shown.items()
    }


def _jpeg(run: Run, position: int) -> str:
    return jpeg_of(SourceImages(run.source, [position])[0])


def typical_faces(run: Run, identities: Iterable[int]) -> dict[int, list[int]]:
    """Positions of images of each identity, closest to its class center first."""
    centers = class_centers(run, "run")
    by_label = np.argsort(run.source.labels, kind="stable")
    ends = np.searchsorted(run.source.labels[by_label], np.arange(run.source.identities + 1))
    found = {}
    with progress_bar("identities") as bar:
        for identity in bar.track(list(identities), description="typical faces"):
            own = by_label[ends[identity] : ends[identity + 1]]
            own = own[spread(len(own), SEARCHED)]
            cosines = unit_rows(embed_training_images(run, own)) @ centers[identity]
            found[identity] = own[np.argsort(-cosines.numpy(), kind="stable")].tolist()
    return found
