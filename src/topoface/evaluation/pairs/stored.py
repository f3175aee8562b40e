"""Judge pairs by features that are there already, a row for each image, whatever computed them."""

from dataclasses import replace

import numpy as np

from topoface.evaluation.embedding import score_units
from topoface.evaluation.features import Features
from topoface.evaluation.pairs.protocol import PairProtocol
from topoface.evaluation.pairs.verification import Verification, judge


def judge_features(
    features: Features, protocol: PairProtocol, *, bootstrap: int = 1000, seed: int = 0
) -> Verification:
    """All figures of the protocol; features of any length, rows of zeros where there is none.

    Args:
        features: a row for each of the protocol's images.
        protocol: what to judge on.
        bootstrap: replicates of the intervals; 0 for none.
        seed: of the bootstrap.

    Raises:
        UserError: no image has a feature.
    """
    lengths = np.linalg.norm(features.rows.astype(np.float64), axis=1, keepdims=True)
    failed = np.flatnonzero(~features.rows.any(axis=1)).tolist()
    reasons = (reason for _, reason in features.failures)
    scores = score_units(
        features.rows / np.where(lengths > 0, lengths, 1), dict(zip(failed, reasons, strict=True)), protocol
    )
    judged = judge(scores, protocol, flip=False, bootstrap=bootstrap, seed=seed)
    contract = {**judged.contract, "features": features.origin, "flip": "as the features were made"}
    contract["alignment"] = contract["flip"]
    return replace(judged, contract=contract)
