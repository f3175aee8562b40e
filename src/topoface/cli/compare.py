"""``topoface calibrate`` and ``topoface compare``: same, different or not sure, with the probability."""

import argparse
import json
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topoface.cli.output import image_progress, plain_console, show_progress
from topoface.cli.parsing import Commands

if TYPE_CHECKING:
    from topoface.evaluation.calibration.judging import Answer, Calibration
    from topoface.evaluation.calibration.threshold import Threshold
    from topoface.evaluation.embedding import Progress
    from topoface.evaluation.figures import Figure

MODEL = "a model directory, a .pt of arcface_torch, or an ONNX embedder"


def add(commands: Commands) -> None:
    """Add both commands."""
    calibrate = commands.command(
        "calibrate",
        _calibrate,
        "Find a model's threshold and probabilities on pairs of known people, and store them with the model.",
    )
    calibrate.add_argument("model", metavar="MODEL", help=MODEL)
    calibrate.add_argument(
        "protocol",
        metavar="PROTOCOL",
        help="pairs, as topoface evaluate takes them: a .bin, a manifest, IMAGES::PAIRS, a folder in the layout of RFW; or "
        "all-pairs:SOURCE, every pair of what data.train takes, for small rates",
    )
    calibrate.add_argument(
        "--far", type=float, default=1e-3, help="false accept rate of the threshold (default 0.001)"
    )
    calibrate.add_argument(
        "--prior",
        type=float,
        default=0.5,
        help="share of pairs of one person among those that will be compared (default 0.5)",
    )
    calibrate.add_argument("--seed", type=int, default=0, help="of halves and bootstrap (default 0)")

    compare = commands.command(
        "compare", _compare, "Say whether two aligned faces show one person: same, different, or not sure."
    )
    compare.add_argument("model", metavar="MODEL", help=f"{MODEL}, calibrated before")
    compare.add_argument("images", metavar="IMAGE", nargs=2, type=Path, help="an aligned face of 112 x 112")
    compare.add_argument(
        "--far", type=float, help="false accept rate (default: that of the calibration, --far of calibrate)"
    )
    compare.add_argument("--json", action="store_true", help="print the answer as JSON")


def _calibrate(arguments: argparse.Namespace) -> int:
    from topoface.evaluation.calibration.files import write
    from topoface.evaluation.pairs.opening import ALL_PAIRS

    every = arguments.protocol.startswith(ALL_PAIRS)
    calibration = _from_all_pairs(arguments) if every else _from_pairs(arguments)
    path = write(calibration, arguments.model)
    _print_calibration(calibration)
    print(f"stored: {path}")
    return 0


def _from_pairs(arguments: argparse.Namespace) -> "Calibration":
    from topoface.evaluation import open_protocol
    from topoface.evaluation.calibration.judging import calibrate, open_unit_embed, require_options
    from topoface.evaluation.calibration.known_pairs import known_pairs
    from topoface.evaluation.embedding import score_pairs

    protocol = open_protocol(arguments.protocol)
    # Before the images are embedded, which takes minutes.
    require_options(arguments.far, arguments.prior, int((~protocol.same).sum()), protocol.uri)
    embed, digest = open_unit_embed(arguments.model)
    with image_progress() as bar:
        show = partial(show_progress, bar, bar.add_task(protocol.name, total=None))
        scores = score_pairs(embed, protocol, progress=show).scores
    return calibrate(known_pairs(scores, protocol), protocol, weights=digest, **_options(arguments))


def _from_all_pairs(arguments: argparse.Namespace) -> "Calibration":
    from topoface.evaluation.all_pairs.judging import open_labelled
    from topoface.evaluation.calibration.all_pairs import calibrate_all_pairs, require_all_pairs
    from topoface.evaluation.calibration.judging import open_unit_embed
    from topoface.evaluation.features import compute_features
    from topoface.evaluation.pairs.opening import ALL_PAIRS

    faces = open_labelled(arguments.protocol.removeprefix(ALL_PAIRS))
    require_all_pairs(faces, arguments.far, arguments.prior)
    embed, digest = open_unit_embed(arguments.model)
    with image_progress() as bar:

        def step(title: str) -> "Progress":
            return partial(show_progress, bar, bar.add_task(title, total=None))

        features = compute_features(
            embed, faces.images, flip=True, origin=arguments.model, progress=step(faces.name)
        )
        return calibrate_all_pairs(features, faces, weights=digest, step=step, **_options(arguments))


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in ("far", "prior", "seed")}


def _compare(arguments: argparse.Namespace) -> int:
    from topoface.evaluation.calibration.files import read, require_calibrated
    from topoface.evaluation.calibration.judging import open_face, open_unit_embed, score_of

    require_calibrated(arguments.model)  # before the model is read
    first, second = map(open_face, arguments.images)
    embed, digest = open_unit_embed(arguments.model)
    calibration = read(arguments.model, digest)
    threshold = calibration.at(arguments.far, arguments.model)
    answer = calibration.answer(score_of(embed, first, second), threshold)
    if arguments.json:
        print(json.dumps(_as_json(answer, threshold, calibration), indent=1))
    else:
        _print_answer(answer, threshold, calibration)
    return 0


def _print_calibration(calibration: "Calibration") -> None:
    from rich.table import Table

    data, console = calibration.data, plain_console()
    table = Table(
        title=f"{data['protocol']}: {data['genuine']:,} genuine and {data['impostors']:,} impostor pairs of {data['people']:,} people",
        title_justify="left",
    )
    for column in ("FAR asked", "threshold", "FAR of other people, %", "missed of other people, %"):
        table.add_column(column, justify="right")
    for t in calibration.thresholds:
        table.add_row(f"{t.far:g}", _plain(t.bars.accept), _percent(t.honest_far), _percent(t.honest_miss))
    console.print(table)
    table = Table(title="said of other people's pairs, in %", title_justify="left")
    for column in ("FAR asked", "different below", "same from", "one person: different / not sure / same"):
        table.add_column(column, justify="right")
    table.add_column("two people", justify="right")
    for t in calibration.thresholds:
        table.add_row(
            f"{t.far:g}",
            f"{t.bars.different_below:.3f}",
            f"{t.bars.same_from:.3f}",
            *(
                " / ".join(f"{100 * share:.2f}" for share in shares)
                for shares in (t.genuine_verdicts, t.impostor_verdicts)
            ),
        )
    console.print(table)
    q = calibration.quality
    print(
        f"probability, prior {calibration.prior:g}, of other people: calibration error {q['error']:.4f} "
        f"(if all hold, below {q['expected']:.4f}; of (1 + cosine) / 2: {q['before']:.4f}); "
        f"Cllr {q['cllr']['value']:.4f} ({q['cllr']['low']:.4f} to {q['cllr']['high']:.4f}); Brier {q['brier']['value']:.4f}"
    )
    print(f"other people: {calibration.contract['honest figures']}")
    if data["left_out"]:
        print(f"{data['left_out']:,} pairs are left out: an image could not be judged")


def _print_answer(answer: "Answer", threshold: "Threshold", calibration: "Calibration") -> None:
    bars, data = threshold.bars, calibration.data
    print(
        f"{answer.verdict}: score {answer.score:.4f}, probability of one person {_probability(answer.probability)} "
        f"(if {calibration.prior:g} of all compared pairs show one)"
    )
    print(f"different below {bars.different_below:.4f}, same from {bars.same_from:.4f}, not sure between")
    print(
        f"threshold {_plain(bars.accept, 4)} for a FAR of {threshold.far:g}; other people's pairs, in %: "
        f"FAR {_percent(threshold.honest_far)}, missed {_percent(threshold.honest_miss)}"
    )
    print(
        f"calibrated on {data['protocol']}, {data['genuine'] + data['impostors']:,} pairs of {data['people']:,} people, "
        f"{calibration.date}; other pictures may have other rates"
    )


def _as_json(answer: "Answer", threshold: "Threshold", calibration: "Calibration") -> dict[str, object]:
    return {
        **vars(answer),
        "prior": calibration.prior,
        "far": threshold.far,
        "threshold": threshold.bars.accept._asdict(),
        "different_below": threshold.bars.different_below,
        "same_from": threshold.bars.same_from,
        "honest_far": threshold.honest_far._asdict(),
        "honest_miss": threshold.honest_miss._asdict(),
        "data": calibration.data,
        "date": calibration.date,
        "weights": calibration.weights,
    }


def _plain(figure: "Figure", digits: int = 3) -> str:
    return f"{figure.value:.{digits}f} ({figure.low:.{digits}f} to {figure.high:.{digits}f})"


def _percent(figure: "Figure") -> str:
    return f"{100 * figure.value:.3g} ({100 * figure.low:.3g} to {100 * figure.high:.3g})"


def _probability(value: float) -> str:
    """In percent, with as many digits as tell it from none and from all."""
    nearest = max(min(value, 1 - value), 1e-10)  # a certain one rounds to 0 or 1
    digits = max(1, min(8, 1 - math.floor(math.log10(100 * nearest))))
    return f"{100 * value:.{digits}f} %"
