"""What features reached on a template protocol: figures of pairs and of searches, their warnings, their JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from topoface.evaluation.figures import Figure, PairFigures, TarAtFar, count_of, differences, without_nan
from topoface.evaluation.templates.protocol import TemplateProtocol
from topoface.functional.bootstrap import Floats, percentile_interval

RANKS: Final = (1, 5, 10)
FPIRS: Final = (0.1, 0.01, 0.003)


@dataclass(frozen=True, kw_only=True)
class TpirAtFpir:
    """TPIR above the lowest bar whose FPIR does not exceed the target.

    Attributes:
        target: the FPIR asked for.
        tpir: share of mated searches whose mate lies above the bar.
        fpir: share of searches without a mate that find somebody, at most ``target``.
        false_alarms: how many those are.
        allowed: how many ``target`` would allow.
        bar: a candidate must lie strictly above it.
        warning: empty, or why the figure says little.
    """

    target: float
    tpir: Figure
    fpir: float
    false_alarms: int
    allowed: int
    bar: float
    warning: str


@dataclass(frozen=True, kw_only=True)
class GallerySize:
    """What the same searches gave in a gallery with so many of the distractors.

    Attributes:
        distractors: so many, the same in all larger galleries.
        gallery: entries with them.
        rank1: share of mated probes whose mate is the most similar entry.
        fnir: 1 - TPIR by FPIR; empty where TPIR is.
    """

    distractors: int
    gallery: int
    rank1: Figure
    fnir: dict[float, Figure]

    def to_json(self) -> dict[str, Any]:
        """In types that ``json`` can write."""
        return {
            "distractors": self.distractors,
            "gallery": self.gallery,
            "rank1": self.rank1._asdict(),
            "fnir": {f"{fpir:g}": figure._asdict() for fpir, figure in self.fnir.items()},
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchFigures:
    """What searching one gallery gave.

    Attributes:
        name: of the gallery.
        gallery: entries in it, distractors among them.
        distractors: how many those are.
        mated: searches for people who are in it.
        strangers: searches for people who are not.
        ranks: share of mated probes by rank: the mate is among the so many most similar; empty where no probe has a mate.
        tpir: one for each FPIR in ``FPIRS``; empty where every probe has a mate, as in all galleries together, or none has.
        cmc: float64 ``[4, ranks]``: rank, share, and the ends of its interval.
        det: float64 ``[4, points]``: FPIR, FNIR, and the ends of its interval; no points where ``tpir`` is empty.
        sizes: the gallery with more and more of the distractors, with all of them at last; empty where there are none.
        replicates: by the names of `named`, and more; empty without a bootstrap.
    """

    name: str
    gallery: int
    distractors: int
    mated: int
    strangers: int
    ranks: dict[int, Figure]
    tpir: tuple[TpirAtFpir, ...]
    cmc: Floats
    det: Floats
    sizes: tuple[GallerySize, ...]
    replicates: Mapping[str, Floats]

    @property
    def sharpest(self) -> float:
        """The lowest FPIR that enough searches carry; the highest where none is. There must be one."""
        return min((p.target for p in self.tpir if not p.warning), default=self.tpir[0].target)

    def named(self) -> dict[str, Figure]:
        """The figures by name, for tables; of smaller galleries few."""
        shares = {f"{self.name} rank-{rank}": share for rank, share in self.ranks.items()}
        shares |= {f"{self.name} tpir@{point.target:g}": point.tpir for point in self.tpir}
        for size in self.sizes[:-1]:  # the last is the gallery that the others are of
            shares[f"{self.name} rank-1 of {size.gallery:,}"] = size.rank1
            if self.tpir:
                fpir = self.sharpest
                shares[f"{self.name} fnir@{fpir:g} of {size.gallery:,}"] = size.fnir[fpir]
        return shares

    def to_json(self) -> dict[str, Any]:
        """All but the replicates."""
        return {
            "name": self.name,
            "gallery": self.gallery,
            "distractors": self.distractors,
            "mated": self.mated,
            "strangers": self.strangers,
            "ranks": {str(rank): share._asdict() for rank, share in self.ranks.items()},
            "tpir": [{**vars(point), "tpir": point.tpir._asdict()} for point in self.tpir],
            "cmc": dict(zip(("rank", "share", "low", "high"), self.cmc.tolist(), strict=True)),
            "det": dict(zip(("fpir", "fnir", "low", "high"), self.det.tolist(), strict=True)),
            "sizes": [size.to_json() for size in self.sizes],
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class TemplateVerification:
    """What features reached on a template protocol.

    Attributes:
        protocol: what was judged on; not part of the JSON.
        pairs: the figures of 1:1; None where there are no pairs.
        searches: one for each gallery.
        failed_templates: templates of which no image has a feature; their pairs and searches count as errors.
        failures: name and reason for each image without a feature.
        contract: how the figures came about, in words.
    """

    protocol: TemplateProtocol
    pairs: PairFigures | None
    searches: tuple[SearchFigures, ...]
    failed_templates: int
    failures: tuple[tuple[str, str], ...]
    contract: dict[str, str]

    @property
    def name(self) -> str:
        """The protocol's name."""
        return self.protocol.name

    @property
    def fingerprint(self) -> str:
        """The protocol's fingerprint: results with one can be compared."""
        return self.protocol.fingerprint

    @property
    def tar(self) -> tuple[TarAtFar, ...]:
        """TAR at each FAR; none where there are no pairs."""
        return self.pairs.tar if self.pairs else ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What limits these figures, a sentence each."""
        found = list(self.pairs.warnings) if self.pairs else []
        if self.failures:
            found.insert(
                0,
                f"{count_of(len(self.failures), 'image')} had no feature and were left out of their templates; "
                f"{count_of(self.failed_templates, 'template')} had none left and counts as an error.",
            )
        return (*found, *(p.warning for search in self.searches for p in search.tpir if p.warning))

    def named(self) -> dict[str, Figure]:
        """The figures by name, for tables."""
        found = self.pairs.named() if self.pairs else {}
        for search in self.searches:
            found |= search.named()
        return found

    def summary(self) -> dict[str, float]:
        """The values of the figures by name."""
        return {name: figure.value for name, figure in self.named().items()}

    def replicates(self) -> dict[str, Floats]:
        """By the names of `named`, of what models can be compared by; none without a bootstrap."""
        found = self.pairs.comparable() if self.pairs else {}
        for search in self.searches:
            vague = {f"{search.name} tpir@{point.target:g}" for point in search.tpir if point.warning}
            found |= {name: drawn for name, drawn in search.replicates.items() if name not in vague}
        return found

    def minus(self, other: "TemplateVerification") -> dict[str, Figure]:
        """This one's figures minus the other's on the same protocol, with intervals of the differences.

        Raises:
            ValueError: the two were judged on different protocols.
        """
        if self.fingerprint != other.fingerprint:
            raise ValueError(f"{self.name} and {other.name} are different protocols; compare models on one")
        trials = self.pairs.trials() if self.pairs else {}
        for search in self.searches:
            trials |= dict.fromkeys(search.named(), search.mated)
        drawn, others = self.replicates(), other.replicates()
        intervals = {
            name: percentile_interval(drawn[name] - others[name]) for name in drawn.keys() & others.keys()
        }
        return differences(self.named(), other.named(), intervals, trials)

    def to_json(self) -> dict[str, Any]:
        """Everything but images and replicates, in types that ``json`` can write; NaN and inf become null."""
        content = {
            "name": self.name,
            "images": len(self.protocol.images),
            "templates": len(self.protocol.template_ids),
            "identities": int(self.protocol.people.max()) + 1,
            **(self.pairs.to_json() if self.pairs else {"genuine": 0, "impostors": 0, "tar_at_far": []}),
            "searches": [search.to_json() for search in self.searches],
            "failed_templates": self.failed_templates,
            "failures": [list(failure) for failure in self.failures],
            "warnings": list(self.warnings),
            "contract": self.contract,
        }
        return {key: without_nan(value) for key, value in content.items()}
