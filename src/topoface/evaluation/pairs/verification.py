"""Judge a model on verification pairs: every figure with its interval, its rule and what limits it."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from topoface.evaluation.embedding import Embed, PairScores, Progress, score_pairs
from topoface.evaluation.figures import (
    BINS,
    COST,
    Curve,
    Figure,
    TarAtFar,
    band,
    band_fars,
    cost_figure,
    cost_in_words,
    cost_warning,
    count_of,
    interval_in_words,
    tar_at,
    with_intervals,
    without_nan,
)
from topoface.evaluation.pairs.protocol import PairProtocol
from topoface.functional import bootstrap as resample
from topoface.functional import verification as exact

FARS: Final = (1e-1, 1e-2, 1e-3)
WORST: Final = 12


@dataclass(frozen=True, kw_only=True, eq=False)
class Verification:
    """What a model reached on one protocol.

    Attributes:
        protocol: the pairs; not part of the JSON.
        accuracy: mean over folds, each at the threshold chosen on the others.
        fold_accuracy: float64 ``[k]``.
        fold_thresholds: float64 ``[k]``.
        auc: area under the ROC.
        eer: equal error rate.
        min_dcf: lowest detection cost at ``figures.COST``.
        tar: one for each FAR in ``FARS``.
        curve: for ROC and DET.
        histogram: pairs by score: int64 ``[2, BINS]`` (genuine, impostor) over equal bins of [-1, 1].
        worst_accepts: impostor pairs that were accepted, highest score first; positions in ``protocol.pairs``.
        worst_rejects: genuine pairs that were rejected, lowest score first.
        failures: name and reason for each image that could not be judged; its pairs count as errors.
        scores: float64 ``[m]``, for comparing models pair by pair; not part of the JSON.
        bootstrap: replicates of the intervals; 0 for none.
        seed: of the bootstrap.
        contract: how the figures came about, in words.
    """

    protocol: PairProtocol
    accuracy: Figure
    fold_accuracy: NDArray[np.float64]
    fold_thresholds: NDArray[np.float64]
    auc: Figure
    eer: Figure
    min_dcf: Figure
    tar: tuple[TarAtFar, ...]
    curve: Curve
    histogram: NDArray[np.int64]
    worst_accepts: tuple[int, ...]
    worst_rejects: tuple[int, ...]
    failures: tuple[tuple[str, str], ...]
    scores: NDArray[np.float64]
    bootstrap: int
    seed: int
    contract: dict[str, str]

    @property
    def name(self) -> str:
        """The protocol's name."""
        return self.protocol.name

    @property
    def accuracy_std(self) -> float:
        """Standard deviation over the folds, as papers print it behind the mean; not an interval."""
        return float(self.fold_accuracy.std())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What limits these figures, a sentence each."""
        failed = (
            (
                f"{count_of(len(self.failures), 'image')} could not be judged; pairs with them count as errors.",
            )
            if self.failures
            else ()
        )
        every = [p.warning for p in self.tar] + [cost_warning(self.min_dcf, np.isfinite(self.auc.low))]
        return failed + tuple(warning for warning in every if warning)

    def named(self) -> dict[str, Figure]:
        """Every figure by name, for tables."""
        figures = {"accuracy": self.accuracy, "auc": self.auc, "eer": self.eer}
        return (
            figures | {f"tar@{point.target:g}": point.tar for point in self.tar} | {"min_dcf": self.min_dcf}
        )

    def summary(self) -> dict[str, float]:
        """The main figures by name, for logs: shares, of which more is better but for ``eer``."""
        return {name: figure.value for name, figure in self.named().items() if name != "min_dcf"}

    def to_json(self) -> dict[str, Any]:
        """Everything but the images and the single scores, in types that ``json`` can write; NaN and inf become null."""
        protocol, same = self.protocol, self.protocol.same

        def pair(i: int) -> dict[str, Any]:
            left, right = (protocol.images.names[k] for k in protocol.pairs[i])
            return {"pair": i, "score": float(self.scores[i]), "images": [left, right]}

        content = {
            "name": self.name,
            "genuine": int(same.sum()),
            "impostors": int((~same).sum()),
            "images": len(protocol.images),
            "identities": len(np.unique(protocol.identities)),
            "interval_unit": protocol.interval_unit,
            "accuracy": self.accuracy._asdict(),
            "accuracy_std": self.accuracy_std,
            "fold_accuracy": self.fold_accuracy.tolist(),
            "fold_thresholds": self.fold_thresholds.tolist(),
            "auc": self.auc._asdict(),
            "eer": self.eer._asdict(),
            "min_dcf": self.min_dcf._asdict(),
            "tar_at_far": [{**vars(point), "tar": point.tar._asdict()} for point in self.tar],
            **self.curve.to_json(),
            "histogram": dict(zip(("genuine", "impostor"), self.histogram.tolist(), strict=True)),
            "worst_accepts": [pair(i) for i in self.worst_accepts],
            "worst_rejects": [pair(i) for i in self.worst_rejects],
            "failures": [list(failure) for failure in self.failures],
            "warnings": list(self.warnings),
            "contract": self.contract,
        }
        return {key: without_nan(value) for key, value in content.items()}


def verify(
    embed: Embed,
    protocol: PairProtocol,
    *,
    flip: bool = True,
    bootstrap: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
    progress: Progress | None = None,
    model: str = "",
) -> Verification:
    """Judge embeddings on a protocol.

    Args:
        embed: uint8 RGB ``[n, 112, 112, 3]`` to ``[n, D]``, for example ``EmbeddingModel.embed``.
        protocol: from ``open_protocol``.
        flip: add the embedding of the mirrored image.
        bootstrap: replicates of the identity bootstrap; 0 for figures without intervals.
        seed: of the bootstrap. Two models judged with one seed see the same replicates.
        batch_size: images in memory at a time.
        progress: called with images done and images in all.
        model: its name and a digest of its weights, for the record.

    Raises:
        UserError: no image at all could be judged.
    """
    pair_scores = score_pairs(embed, protocol, flip=flip, batch_size=batch_size, progress=progress)
    return judge(pair_scores, protocol, flip=flip, bootstrap=bootstrap, seed=seed, model=model)


def judge(
    pair_scores: PairScores,
    protocol: PairProtocol,
    *,
    flip: bool,
    bootstrap: int = 1000,
    seed: int = 0,
    model: str = "",
) -> Verification:
    """All figures from the scores of the protocol's pairs; arguments as in :func:`verify`."""
    scores, same = pair_scores.scores, protocol.same
    impostors = int((~same).sum())
    fars = band_fars(impostors)
    replicates = _replicates(scores, protocol, (*FARS, *fars), bootstrap, seed) if bootstrap else {}

    def figure(name: str, value: float) -> Figure:
        return Figure(value).within(replicates.get(name))

    folds = exact.kfold(scores, same, protocol.folds)
    accepted = scores >= folds.thresholds[np.searchsorted(folds.folds, protocol.folds)]
    points = [(far, exact.threshold_at_far(scores, same, far)) for far in FARS]
    genuine, failed = len(same) - impostors, int((pair_scores.failed & ~same).sum())
    tar = [
        tar_at(far, p.threshold, round(p.tar * genuine), genuine, p.false_accepts, impostors, failed)
        for far, p in points
    ]
    cost, best = exact.min_dcf(scores, same, COST)
    judged = ~pair_scores.failed
    return Verification(
        protocol=protocol,
        accuracy=figure("accuracy", float(folds.accuracy.mean())),
        fold_accuracy=folds.accuracy,
        fold_thresholds=folds.thresholds,
        auc=figure("auc", exact.auc(scores, same)),
        eer=figure("eer", exact.equal_error_rate(scores, same)),
        min_dcf=cost_figure(cost, int((scores[~same] >= best).sum()), replicates.get("min_dcf")),
        tar=with_intervals(tar, replicates, genuine),
        curve=Curve(_thinned_roc(scores, same), band(fars if bootstrap else [], replicates), impostors),
        histogram=np.stack(
            [np.histogram(np.clip(scores[judged & kind], -1, 1), BINS, (-1, 1))[0] for kind in (same, ~same)]
        ).astype(np.int64),
        worst_accepts=_worst(-scores, judged & ~same & accepted),
        worst_rejects=_worst(scores, judged & same & ~accepted),
        failures=pair_scores.failures,
        scores=scores,
        bootstrap=bootstrap,
        seed=seed,
        contract=_contract(protocol, flip, bootstrap, seed, len(pair_scores.failures), model),
    )


def _replicates(
    scores: NDArray[np.float64],
    protocol: PairProtocol,
    fars: tuple[float, ...],
    bootstrap: int,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    return resample.identity_bootstrap(
        scores,
        protocol.same,
        protocol.identities[protocol.pairs],
        protocol.folds,
        fars=fars,
        cost=COST,
        replicates=bootstrap,
        seed=seed,
    )


def _thinned_roc(
    scores: NDArray[np.float64], same: NDArray[np.bool_], points: int = 300
) -> NDArray[np.float64]:
    """ROC points, dense where a logarithmic FAR axis shows them."""
    far, tar, thresholds = exact.roc(scores, same)
    targets = np.geomspace(1 / int((~same).sum()), 1, points)
    keep = np.unique(np.concatenate([[0], np.searchsorted(far, targets, side="right") - 1]))
    return np.stack([far[keep], tar[keep], thresholds[keep]])


def _worst(badness: NDArray[np.float64], among: NDArray[np.bool_]) -> tuple[int, ...]:
    places = np.flatnonzero(among)
    return tuple(int(i) for i in places[np.argsort(badness[places], kind="stable")[:WORST]])


def _contract(
    protocol: PairProtocol, flip: bool, bootstrap: int, seed: int, failures: int, model: str
) -> dict[str, str]:
    unit = "identities" if protocol.interval_unit == "identity" else "groups of linked images"
    return {
        "protocol": protocol.uri,
        "fingerprint": protocol.fingerprint,
        **({"model": model} if model else {}),
        "alignment": protocol.alignment,
        "score": "cosine of the two embeddings",
        "flip": "embedding plus that of the mirrored image, then normalised" if flip else "none",
        "accuracy": f"mean over {len(np.unique(protocol.folds))} folds, each at the threshold best on all others (exact, the strictest of equals)",
        "TAR at FAR": "lowest threshold whose FAR does not exceed the target (exact)",
        "minDCF": cost_in_words(),
        "intervals": interval_in_words(bootstrap, unit, seed),
        "failures": f"{failures} of {len(protocol.images)} images; a pair with such an image counts as an error",
        **({"notes": " ".join(protocol.notes)} if protocol.notes else {}),
    }
