"""All that `topoface doctor` looks at, in order."""

from collections.abc import Callable
from functools import partial

from topoface.data import Source
from topoface.diagnostics.doctor.alignment import examine_alignment
from topoface.diagnostics.doctor.contracts import draw_sample, examine_contract
from topoface.diagnostics.doctor.faults import image_findings, look
from topoface.diagnostics.doctor.network import Network
from topoface.diagnostics.doctor.overlap import train_overlap
from topoface.diagnostics.doctor.pair_faults import pair_findings
from topoface.diagnostics.doctor.report import Finding
from topoface.diagnostics.doctor.selftest import network_test, self_test
from topoface.errors import UserError
from topoface.evaluation import PairProtocol

AGAIN = 4  # times the pairs, for a second look at one crop
Step = Callable[[str], Callable[[int, int], None]]


def examine(
    network: Network,
    protocol: PairProtocol,
    *,
    train: Source | None = None,
    pairs: int = 300,
    seed: int = 0,
    step: Step,
) -> list[Finding]:
    """Look at the installation, the model, the pairs, how they fit, and what training has seen of them.

    Args:
        network: from ``open_network``.
        protocol: from ``open_protocol``.
        train: the training images; None to leave the overlap with them out.
        pairs: that contract and alignment are judged by, half of them genuine; a second look takes four times as many others.
        seed: draws those pairs.
        step: called with the title of each long step; gives what is called with images done and images in all.
    """
    found = [self_test(), network_test(network)]
    looks = look(protocol, step("images"))
    found += image_findings(protocol, looks) + pair_findings(protocol, looks)
    contract = network.declared
    try:
        sample = draw_sample(protocol, pairs, list(looks.failures), seed=seed)
    except UserError as error:
        found.append(
            Finding(check="contract", level="wrong", text=f"not examined: {error.what}; {error.remedy}")
        )
    else:
        contract, said = examine_contract(network, sample, looks.cold_share, step("contract"))
        found += said
        rest = partial(draw_sample, protocol, AGAIN * pairs, list(looks.failures), seed=seed, after=pairs)
        found += examine_alignment(network, contract, sample, step("alignment"), others=rest)
    if train:
        steps = step("test images"), step("training images")
        found += train_overlap(network, contract, protocol, train, steps)
    return found
