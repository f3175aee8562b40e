"""What ``topoface calibrate`` finds out about a model, and what ``topoface compare`` answers from it."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from topoface.data.decode import FACE_SHAPE, Pixels, decode
from topoface.errors import UserError
from topoface.evaluation.calibration.known_pairs import KnownPairs, halves
from topoface.evaluation.calibration.probability import fit, quality
from topoface.evaluation.calibration.threshold import ERRORS, VERDICTS, Threshold, choose, require_resolution
from topoface.evaluation.embedding import Embed
from topoface.evaluation.features import open_embed
from topoface.evaluation.figures import TEMPLATE_FARS
from topoface.evaluation.pairs.protocol import PairProtocol
from topoface.functional.score_calibration import LogisticLine, probability
from topoface.functional.verification import allowed_false_accepts

CONTRACT: Final = {
    "score": "cosine of the embeddings, each plus that of the mirrored image",
    "same": "at or above the upper end of the threshold's interval",
    "intervals": "95 %, from what each person does to a figure",
    "different": "below the lower ends of the intervals of the threshold and of the bar of the miss rate",
}


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Thresholds and the line of one model, and where they come from.

    Attributes:
        weights: digest of the model's weights, as `topoface.evaluation.features.open_embed` gives it.
        date: of the calibration, UTC, ``YYYY-MM-DD``.
        data: protocol, pairs and people it was made on.
        contract: how the figures came about, in words.
        prior: share of genuine pairs that the probabilities are meant for.
        far: the rate that `Calibration.at` takes by default.
        thresholds: of this rate and of those of ``TEMPLATE_FARS`` that the pairs can tell, from the largest.
        line: log likelihood ratio over the score.
        quality: how far the probabilities hold, as `Quality` without its bins.
    """

    weights: str
    date: str
    data: dict[str, Any]
    contract: dict[str, str]
    prior: float
    far: float
    thresholds: tuple[Threshold, ...]
    line: LogisticLine
    quality: dict[str, Any]

    def at(self, far: float | None, where: str) -> Threshold:
        """The threshold of a rate.

        Args:
            far: the rate; None for the one asked for when it was calibrated.
            where: names the model in errors.

        Raises:
            UserError: the pairs cannot tell this rate, or it was not calibrated.
        """
        wanted = self.far if far is None else far
        require_resolution(wanted, self.data["impostors"], f"{where}, calibrated on {self.data['protocol']}")
        for threshold in self.thresholds:
            if math.isclose(threshold.far, wanted, rel_tol=1e-9):
                return threshold
        known = ", ".join(f"{threshold.far:g}" for threshold in self.thresholds)
        raise UserError(
            f"is calibrated for a FAR of {known}",
            where,
            f"run topoface calibrate MODEL PROTOCOL --far {wanted:g}",
        )

    def answer(self, score: float, threshold: Threshold) -> "Answer":
        """What is said about a pair with this score."""
        return Answer(
            verdict=VERDICTS[int(threshold.bars.verdicts(np.array([score]))[0])],
            score=score,
            probability=float(probability(self.line.log_ratio([score]), self.prior)[0]),
        )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """About two pictures.

    Attributes:
        verdict: one of ``VERDICTS``.
        score: cosine.
        probability: that they show one person, for the prior of the calibration.
    """

    verdict: str
    score: float
    probability: float


def calibrate(
    pairs: KnownPairs,
    protocol: PairProtocol,
    *,
    weights: str,
    far: float,
    prior: float,
    seed: int = 0,
) -> Calibration:
    """Thresholds, line and their quality from the pairs of a protocol.

    Args:
        pairs: from `known_pairs`.
        protocol: where they come from.
        weights: digest of the model.
        far: the rate wanted.
        prior: share of genuine pairs among those that will be compared.
        seed: of halves.

    Raises:
        UserError: the pairs cannot tell the rate, or the scores tell nothing.
    """
    where = protocol.uri
    impostors = int((~pairs.same).sum())
    require_options(far, prior, impostors, where)
    found = quality(pairs, prior, where=where, seed=seed)
    return Calibration(
        weights=weights,
        date=datetime.now(UTC).date().isoformat(),
        data={
            "protocol": protocol.name,
            "uri": protocol.uri,
            "fingerprint": protocol.fingerprint,
            "genuine": len(pairs.same) - impostors,
            "impostors": impostors,
            "people": len(np.unique(pairs.people)),
            "left_out": pairs.left_out,
        },
        contract={
            **CONTRACT,
            "threshold": "lowest whose FAR on all pairs is at most the rate (exact)",
            "honest figures": f"chosen on one half, scored on the other, both ways; {halves(pairs, seed, where)[1]}",
        },
        prior=prior,
        far=far,
        thresholds=tuple(
            choose(pairs, rate, where=where, seed=seed) for rate in rates_to_tell(far, impostors)
        ),
        line=fit(pairs, prior, where=where),
        quality=found.to_json(),
    )


def require_options(far: float, prior: float, impostors: int, where: str) -> None:
    """Refuse a prior that is none, and a rate that so many impostor pairs cannot tell.

    Raises:
        UserError: as said.
    """
    if not 0 < prior < 1:
        raise UserError(f"is {prior:g}", "--prior", "give a share between 0 and 1")
    require_resolution(far, impostors, where)


def rates_to_tell(far: float, impostors: int) -> list[float]:
    """The rate asked for and those of ``TEMPLATE_FARS`` that so many pairs can tell, from the largest."""
    further = {rate for rate in TEMPLATE_FARS if allowed_false_accepts(impostors, rate) >= ERRORS}
    return sorted(further | {far}, reverse=True)


def open_face(path: Path) -> Pixels:
    """An aligned face.

    Raises:
        UserError: the file is no image of 112 x 112.
    """
    try:
        face = decode(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", str(path), "check the path") from error
    if face.shape != FACE_SHAPE:
        raise UserError(
            f"is {face.shape[1]} x {face.shape[0]}",
            str(path),
            "give a face aligned to 112 x 112; topoface.evaluation.alignment.align makes one from five landmarks",
        )
    return face


def open_unit_embed(model: str) -> tuple[Embed, str]:
    """What makes unit rows of faces, so that an image and its mirror image weigh alike; and a digest of the weights.

    Raises:
        UserError: the model cannot be read.
    """
    embed, digest = open_embed(model)

    def units(faces: NDArray[np.uint8]) -> NDArray[np.float64]:
        rows = np.asarray(embed(faces), dtype=np.float64)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.where(lengths > 0, lengths, 1))

    return units, digest


def score_of(embed: Embed, first: Pixels, second: Pixels) -> float:
    """Cosine of two faces, each with its mirror image, as a protocol's pairs are scored.

    Raises:
        UserError: the model gives no direction.
    """
    faces = np.stack([first, second])
    rows = np.asarray(embed(faces), dtype=np.float64)
    rows = rows + np.asarray(embed(np.ascontiguousarray(faces[:, :, ::-1])), dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise UserError("gives an embedding that is zero or not finite", "MODEL", "check the model")
    return float(rows[0] @ rows[1] / (lengths[0] * lengths[1]))
