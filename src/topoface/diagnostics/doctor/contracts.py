"""Which input contract fits a model: channel order and scale of the pixels."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from topoface.diagnostics.doctor.network import Contract, Network, even
from topoface.diagnostics.doctor.report import Finding
from topoface.diagnostics.doctor.separation import Gain, Known, gain, separation
from topoface.errors import UserError
from topoface.evaluation.pairs.protocol import PairProtocol
from topoface.functional.draws import generator
from topoface.functional.influences import Meetings
from topoface.functional.verification import auc

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """A few pairs of a protocol, with the images in memory.

    Attributes:
        faces: uint8 RGB ``[n, 112, 112, 3]``.
        pairs: int64 ``[m, 2]``, positions in ``faces``.
        known: of the pairs.
    """

    faces: NDArray[np.uint8]
    pairs: NDArray[np.int64]
    known: Known

    def score(self, units: Floats) -> Floats:
        """Cosines ``[m]``."""
        left, right = self.pairs.T
        scores: Floats = np.einsum("pd,pd->p", units[left], units[right])
        return scores


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One way of feeding the network.

    Attributes:
        name: in words.
        auc: on the sample.
        separation: d' on the sample.
        over_first: gain over the way that was declared.
        behind_best: gain of the best way over this one.
    """

    name: str
    auc: float
    separation: float
    over_first: Gain
    behind_best: Gain


def draw_sample(
    protocol: PairProtocol, pairs: int, unusable: Sequence[int] = (), *, seed: int = 0, after: int = 0
) -> Sample:
    """As many genuine as impostor pairs, none with an image that cannot be used.

    Args:
        protocol: from ``open_protocol``.
        pairs: how many, or fewer where there are not so many.
        unusable: images.
        seed: of what is drawn.
        after: none of those that an earlier sample of so many pairs has.

    Raises:
        UserError: fewer than ten pairs of a kind remain.
    """
    usable = ~np.isin(protocol.pairs, list(unusable)).any(axis=1)
    usable &= protocol.pairs[:, 0] != protocol.pairs[:, 1]
    rng = generator(seed, "doctor pairs")
    drawn: list[NDArray[np.int64]] = []
    for kind in (protocol.same, ~protocol.same):
        places = rng.permutation(np.flatnonzero(usable & kind))[after // 2 : (after + pairs) // 2]
        if len(places) < 10:
            raise UserError(
                f"only {len(places)} {'impostor' if drawn else 'genuine'} pairs can be used",
                protocol.uri,
                "a model can be examined on ten of each kind or more",
            )
        drawn.append(places)
    rows = np.sort(np.concatenate(drawn))
    used, flat = np.unique(protocol.pairs[rows], return_inverse=True)
    return Sample(
        faces=np.stack([protocol.images[int(i)] for i in used]),
        pairs=flat.reshape(-1, 2).astype(np.int64),
        known=Known(protocol.same[rows], Meetings(protocol.identities[protocol.pairs[rows]])),
    )


def candidates(declared: Contract) -> list[Contract]:
    """The declared contract first, then every scale that is in use, in both orders of the channels."""
    every = [
        contract
        for colour in ("rgb", "bgr")
        for contract in (
            *(
                even(mean, divisor, colour)
                for mean, divisor in ((127.5, 127.5), (127.5, 128), (0, 255), (0, 1))
            ),
            Contract("ImageNet's mean and deviation", *IMAGENET, colour),
        )
    ]
    return [declared, *(contract for contract in every if contract != declared)]


def try_each(scores: Mapping[str, Floats], known: Known) -> list[Trial]:
    """Compare ways of scoring; the first one was declared."""
    first = next(iter(scores.values()))
    apart = {name: separation(values, known.same) for name, values in scores.items()}
    best = scores[max(apart, key=lambda name: apart[name])]
    count = max(len(scores) - 1, 1)
    return [
        Trial(
            name=name,
            auc=auc(values, known.same),
            separation=apart[name],
            over_first=gain(values, first, known, comparisons=count),
            behind_best=gain(best, values, known, comparisons=count),
        )
        for name, values in scores.items()
    ]


def examine_contract(
    network: Network, sample: Sample, cold_share: float, progress: Progress | None = None
) -> tuple[Contract, list[Finding]]:
    """The contract that fits, which is the declared one unless another is better beyond chance; and what to say.

    Args:
        network: to be fed.
        sample: to judge by.
        cold_share: share of faces with more blue than red: tells whether model or images have the channels swapped.
        progress: called with images done and images in all.
    """
    ways = candidates(network.declared)
    scores = {}
    for done, contract in enumerate(ways, 1):
        scores[str(contract)] = sample.score(network.embed(sample.faces, contract))
        if progress:
            progress(done * len(sample.faces), len(ways) * len(sample.faces))
    trials = try_each(scores, sample.known)
    first, best = trials[0], max(trials, key=lambda trial: trial.separation)
    figures = {
        "trials": [figures_of(trial) for trial in trials],
        "declared": first.name,
        "declared_by": network.source,
    }
    constant = np.zeros(len(sample.pairs))
    if not gain(scores[best.name], constant, sample.known, comparisons=len(trials)).real:
        text = f"no way of feeding tells people apart (best AUC {best.auc:.3f}, {best.name}): check weights, labels and alignment"
        return network.declared, [Finding(check="contract", level="wrong", text=text, figures=figures)]
    told = f"{first.name} ({network.source}; AUC {first.auc:.4f}, d' {first.separation:.2f})"
    if not best.over_first.real:
        rivals = [trial.name for trial in trials[1:] if not trial.behind_best.real]
        text = f"fits: {told}: agrees" + (
            f"; {len(sample.pairs)} pairs cannot tell it from: {'; '.join(rivals)}"
            if rivals
            else "; all others are worse"
        )
        return network.declared, [Finding(check="contract", level="ok", text=text, figures=figures)]
    fitting = [
        way for way, t in zip(ways, trials, strict=True) if t.over_first.real and not t.behind_best.real
    ]
    contract = next((way for way in fitting if way.scale == network.declared.scale), fitting[0])
    chosen = trials[ways.index(contract)]
    text = (
        f"fits: {chosen.name} (AUC {chosen.auc:.4f}, d' {chosen.separation:.2f}); declared: {told}: does NOT: "
        f"d' {chosen.over_first} by changing"
    )
    if rivals := [trial.name for trial in trials if trial is not chosen and not trial.behind_best.real]:
        text += f"; {len(sample.pairs)} pairs cannot tell it from: {'; '.join(rivals)}"
    if contract.colour != network.declared.colour:
        text += (
            ". Red and blue of the images look swapped: mend them, not the model"
            if cold_share > 0.5
            else f". The images are RGB by their look: it is the model that wants {contract.colour.upper()}"
            if cold_share < 0.5
            else ""
        )
    if network.path.endswith(".onnx") and len({*contract.mean}) == len({*contract.divisor}) == 1:
        said = {"colour": contract.colour, "mean": contract.mean[0], "scale": contract.divisor[0]}
        text += f". To feed it so, write {json.dumps(said)} to {network.path}.json"
    return contract, [Finding(check="contract", level="wrong", text=text, figures=figures)]


def figures_of(trial: Trial) -> dict[str, object]:
    """For JSON."""
    return {
        "way": trial.name,
        "auc": trial.auc,
        "separation": trial.separation,
        "over_declared": [trial.over_first.value, trial.over_first.low, trial.over_first.high],
        "behind_best": [trial.behind_best.value, trial.behind_best.low, trial.behind_best.high],
    }
