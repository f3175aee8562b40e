"""``topoface evaluate``: judge models on pairs, templates, galleries, and all pairs of a set."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from topoface.cli.figures import print_judged
from topoface.cli.groups import group_protocols, groups_to_json, judge_by_group, print_groups
from topoface.cli.output import image_progress, show_progress
from topoface.cli.parsing import Commands
from topoface.errors import UserError, missing_extra
from topoface.files import require_writable, write_text

if TYPE_CHECKING:
    import torch

    from topoface.evaluation import PairProtocol, Verification
    from topoface.evaluation.all_pairs.judging import AllPairs, LabelledSet
    from topoface.evaluation.embedding import Embed
    from topoface.evaluation.features import Features
    from topoface.evaluation.groups.figures import GroupJudgement
    from topoface.evaluation.templates.protocol import TemplateProtocol
    from topoface.evaluation.templates.results import TemplateVerification

    Protocol = PairProtocol | TemplateProtocol | LabelledSet
    Result = Verification | TemplateVerification | AllPairs

WEIGHTINGS = ("detector+norm", "detector", "norm", "none")
FUSIONS = ("pool", "max", "mean")


def add(commands: Commands) -> None:
    """Add the command."""
    evaluate = commands.command(
        "evaluate",
        _evaluate,
        "Judge models on pairs, on templates and galleries (IJB-B, IJB-C), or on all pairs of a set.",
    )
    evaluate.add_argument(
        "model",
        metavar="MODEL",
        help="a model directory, a .pt of arcface_torch, an ONNX embedder, or features on disk: a .npy or .safetensors with a row for "
        "each image of the list, or what topoface embed wrote of the same images",
    )
    evaluate.add_argument(
        "protocols",
        metavar="PROTOCOL",
        nargs="+",
        help="pairs (a .bin, a manifest, IMAGES::PAIRS, a folder in the layout of RFW), templates (a manifest, a folder in the layout "
        "of IJB-C), or all-pairs:SOURCE, every pair of what data.train takes",
    )
    evaluate.add_argument("--report", type=Path, metavar="FILE", help="also write an HTML report")
    evaluate.add_argument(
        "--beside",
        metavar="MODEL",
        action="append",
        default=[],
        help="judge this model too, on the same protocols, and say how they differ; may be given several times",
    )
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="also write every figure as JSON")
    evaluate.add_argument(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="replicates of the intervals (default 1000; 0: no intervals)",
    )
    evaluate.add_argument(
        "--attributes",
        type=Path,
        metavar="FILE",
        help="a CSV with a column image or person and one for each attribute: error rates by group at one threshold",
    )
    evaluate.add_argument(
        "--by",
        metavar="NAME,NAME",
        action="append",
        default=[],
        help="also judge the groups that these attributes make together; may be given several times",
    )
    evaluate.add_argument("--no-flip", action="store_true", help="do not average with the mirrored image")
    evaluate.add_argument(
        "--weighting",
        choices=WEIGHTINGS,
        help=f"how much an image counts in its template (default {WEIGHTINGS[0]}, or norm in a manifest, which has no detector)",
    )
    evaluate.add_argument(
        "--fusion",
        choices=FUSIONS,
        default=FUSIONS[0],
        help=f"a person with several templates in the gallery: one of all images, highest or mean score (default {FUSIONS[0]})",
    )
    evaluate.add_argument(
        "--cache",
        metavar="DIR",
        help="where features are kept, but those of pairs, and how far a count of all pairs is (default ~/.cache/topoface/features; none: nowhere)",
    )


def _evaluate(arguments: argparse.Namespace) -> int:
    _check_options(arguments)
    from topoface.training.distributed import choose_device

    protocols = [_open(uri) for uri in arguments.protocols]
    names = [protocol.name for protocol in protocols]
    if len(set(names)) < len(names):
        raise UserError(
            f"two protocols are called {max(names, key=names.count)!r}", "PROTOCOL", "give each once"
        )
    groupings = group_protocols(protocols, arguments.attributes, arguments.by)
    models = _model_names([arguments.model, *arguments.beside])
    _check_images(protocols, list(models.values()))
    _check_cache(protocols, list(models.values()), arguments)
    device = choose_device("auto")
    print(f"judging on {device}", file=sys.stderr)
    judged = {
        name: [_judge(path, protocol, arguments, device) for protocol in protocols]
        for name, path in models.items()
    }
    groups = judge_by_group(judged, groupings, arguments.bootstrap)
    # Files first: who reads what is printed may leave early (head).
    if arguments.json:
        results = [
            {"model": path, **result.to_json(), **groups_to_json(groups[name], result.name)}
            for name, path in models.items()
            for result in judged[name]
        ]
        write_text(arguments.json, json.dumps(results, indent=1))
    if arguments.report:
        _write_report(arguments, judged, groups)
    print_judged(judged)
    print_groups(groups)
    return 0


def _check_images(protocols: "Sequence[Protocol]", models: list[str]) -> None:
    """Say at once, and not after an hour of other protocols, that an image is missing."""
    from topoface.evaluation.features import STORED
    from topoface.evaluation.templates.protocol import TemplateProtocol

    if not all(model.endswith(STORED) for model in models):
        for protocol in protocols:
            if isinstance(protocol, TemplateProtocol):
                protocol.stamps()


def _check_cache(protocols: "Sequence[Protocol]", models: list[str], arguments: argparse.Namespace) -> None:
    """Say at once that nothing can be kept: features of images other than pairs', and counts of all pairs."""
    from topoface.evaluation.all_pairs.judging import LabelledSet
    from topoface.evaluation.features import STORED, require_cache
    from topoface.evaluation.templates.protocol import TemplateProtocol

    embedded = not all(model.endswith(STORED) for model in models)
    users = (LabelledSet, TemplateProtocol) if embedded else (LabelledSet,)
    if any(isinstance(protocol, users) for protocol in protocols) and (cache := _cache(arguments)):
        require_cache(cache)


def _model_names(paths: list[str]) -> dict[str, str]:
    """A short name for each model: the last part of its path, or as many parts as tell them apart."""
    most = max(len(Path(path).parts) for path in paths)
    for parts in range(1, most + 1):
        names = [str(Path(*Path(path).parts[-parts:])) for path in paths]
        if len(set(names)) == len(names):
            return dict(zip(names, paths, strict=True))
    raise UserError("names one model twice", "--beside", "give each model once")


def _judge(
    model: str, protocol: "Protocol", arguments: argparse.Namespace, device: "torch.device"
) -> "Result":
    from topoface.evaluation import PairProtocol, verify
    from topoface.evaluation.all_pairs.judging import judge_all_pairs
    from topoface.evaluation.features import STORED, read_features
    from topoface.evaluation.manifests.reading import is_manifest
    from topoface.evaluation.pairs.stored import judge_features
    from topoface.evaluation.templates.judging import judge_templates
    from topoface.evaluation.templates.protocol import TemplateProtocol

    with image_progress() as bar:
        show = partial(show_progress, bar, bar.add_task(protocol.name, total=None))
        if isinstance(protocol, PairProtocol):
            if model.endswith(STORED):
                stored = read_features(Path(model), protocol.images.names)
                return judge_features(stored, protocol, bootstrap=arguments.bootstrap)
            embed, digest = _pair_embed(model, device)
            return verify(
                embed,
                protocol,
                flip=not arguments.no_flip,
                bootstrap=arguments.bootstrap,
                progress=show,
                model=f"{Path(model).name}, weights {digest[:16]}",
            )
        features = _features(model, arguments, protocol, device, show)
        if isinstance(protocol, TemplateProtocol):
            return judge_templates(
                features,
                protocol,
                weighting=arguments.weighting or ("norm" if is_manifest(protocol.uri) else "detector+norm"),
                fusion=arguments.fusion,
                bootstrap=arguments.bootstrap,
            )
        return judge_all_pairs(
            features, protocol, bootstrap=arguments.bootstrap, keep=_cache(arguments), progress=show
        )


def _open(uri: str) -> "Protocol":
    from topoface.evaluation import open_protocol
    from topoface.evaluation.all_pairs.judging import open_labelled
    from topoface.evaluation.manifests.reading import is_manifest, open_manifest
    from topoface.evaluation.pairs.opening import ALL_PAIRS
    from topoface.evaluation.templates.ijb import is_ijb, open_ijb

    if uri.startswith(ALL_PAIRS):
        return open_labelled(uri.removeprefix(ALL_PAIRS))
    if is_manifest(uri):
        return open_manifest(uri)
    return open_ijb(Path(uri)) if is_ijb(Path(uri)) else open_protocol(uri)


def _check_options(arguments: argparse.Namespace) -> None:
    if arguments.bootstrap < 0:
        raise UserError(f"is {arguments.bootstrap}", "--bootstrap", "give 0 for none, or more")
    for out in (arguments.json, arguments.report):
        if out:
            require_writable(out)
    if arguments.report and not (find_spec("jinja2") and find_spec("matplotlib")):
        raise missing_extra("matplotlib", "report", "--report")


def _pair_embed(model: str, device: "torch.device") -> "tuple[Embed, str]":
    """What embeds the images of pairs, and a digest of its weights."""
    from topoface.evaluation.calibration.judging import open_unit_embed
    from topoface.evaluation.features import weights_digest
    from topoface.models import load

    if model.endswith(".onnx"):
        return open_unit_embed(model)
    loaded = load(model, device=device)
    return loaded.embed, weights_digest(loaded)


def _features(
    model: str,
    arguments: argparse.Namespace,
    protocol: "TemplateProtocol | LabelledSet",
    device: "torch.device",
    show: Callable[[int, int], None],
) -> "Features":
    """Read from the file named as the model, or made by the model, or kept from before."""
    from topoface.evaluation.all_pairs.judging import LabelledSet
    from topoface.evaluation.features import STORED, model_features, read_features

    if model.endswith(STORED):
        source = protocol.fingerprint if isinstance(protocol, LabelledSet) else None
        return read_features(Path(model), protocol.images.names, source=source)
    return model_features(
        model,
        protocol.images,
        stamps=protocol.stamps(),
        flip=not arguments.no_flip,
        cache=_cache(arguments),
        device=device,
        progress=show,
    )


def _cache(arguments: argparse.Namespace) -> Path | None:
    from topoface.evaluation.features import default_cache

    return None if arguments.cache == "none" else Path(arguments.cache or default_cache())


def _write_report(
    arguments: argparse.Namespace,
    judged: "Mapping[str, Sequence[Result]]",
    groups: "Mapping[str, Mapping[str, GroupJudgement]]",
) -> None:
    from topoface.evaluation import Verification
    from topoface.evaluation.report.page import ModelEntry, ReportInput, write_report

    entries = [
        ModelEntry(
            name=name,
            verifications=[result for result in results if isinstance(result, Verification)],
            sets=[result for result in results if not isinstance(result, Verification)],
            groups=list(groups[name].values()),
        )
        for name, results in judged.items()
    ]
    protocols = ", ".join(result.name for result in next(iter(judged.values())))
    write_report(
        arguments.report,
        ReportInput(
            title=f"{' and '.join(judged)} on {protocols}",
            models=entries,
            command=shlex.join(["topoface", *arguments.words]),
        ),
    )
