"""The part of ``topoface codes report`` on learned class centers: do those of rare identities collapse, as is claimed?"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from topoface.codes.table import CodeTable
from topoface.data.selection import Selection
from topoface.diagnostics.codes.crowds import Collapse, Crowd, Crowding, collapse, crowds, drawn_crowding
from topoface.diagnostics.codes.pictures import draw_angles, draw_crowds
from topoface.diagnostics.opening import open_run
from topoface.diagnostics.page import Picture, Section, Table
from topoface.errors import UserError
from topoface.heads import Composed, Softmax
from topoface.training.run import Run

_CLAIM = (
    "A softmax head moves the center of an identity mostly by its own images. Where these are few, it is claimed, centers are pushed together "
    "(minority collapse), and code vectors, fixed before training, cannot be."
)
_BY_NATURE = (
    "People with many images may be others in more than that, of another source for instance; the code vectors of the same people tell some of "
    "it, a training set thinned at random (a source that ends in ?most_images=8,2,1) tells all. "
)
_BY_CHANCE = "Who keeps how many images was drawn at random: as far as all had as many before, the groups are alike in all else. "
_NOISE = (
    "The mean of one or two images is a noisy vector, which lies further from others than the person would."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Centers:
    """Code vectors beside the class centers that a run learned of the same people.

    Attributes:
        crowds: by images of an identity, fewest first.
        drawn: the same of directions drawn at random.
        thinned: whether chance decided who has how many images.
    """

    crowds: Sequence[Crowd]
    drawn: Crowding
    thinned: bool

    @cached_property
    def collapse(self) -> Collapse | None:
        """None of a single group."""
        return collapse(self.crowds) if len(self.crowds) > 1 else None

    def headline(self) -> str:
        """What the figures say of the claim, in a sentence."""
        if self.collapse is None:
            return "Too few identities have few, or many, images: of minority collapse this says nothing."
        rare, common = self.crowds[0].images, self.crowds[-1].images
        if self.collapse.found:
            return f"Minority collapse: learned centers of identities with {rare} lie closer together than those with {common}."
        if self.collapse.absent:
            return f"No minority collapse: learned centers of identities with {rare} lie further apart than those with {common}."
        return f"Of minority collapse there is no clear sign: learned centers of identities with {rare} beside those with {common}."

    def _figures(self, found: Collapse) -> str:
        """What the headline rests on."""
        rare, common = self.crowds[0], self.crowds[-1]
        difference, beyond = found.centers, found.beyond
        return (
            f"An identity with {rare.images} has its nearest center at a cosine of {rare.centers.means()[1]:.3f} on average, one with {common.images} "
            f"at {common.centers.means()[1]:.3f}: a difference of {difference.value:+.3f} (95 % {difference.low:+.3f} to {difference.high:+.3f}). Code vectors of "
            f"the same people show {difference.value - beyond.value:+.3f} of it ({rare.vectors.means()[1]:.3f} and {common.vectors.means()[1]:.3f}); the other "
            f"{beyond.value:+.3f} ({beyond.low:+.3f} to {beyond.high:+.3f}) came with training. Any two centers have a mean cosine of "
            f"{_text(rare.centers.means()[0])} and {_text(common.centers.means()[0])}."
        )

    def section(self) -> Section:
        """Of the page."""
        ends = self.crowds if len(self.crowds) < 2 else [self.crowds[0], self.crowds[-1]]
        pictures = [
            Picture(
                name="angles",
                draw=partial(draw_angles, crowds=ends),
                rows=len(ends),
                size=(4.7, 1.4 + 2 * len(ends)),
                caption="Angles between any two identities of a group, as many identities in each. Dashed: directions that are at right angles. "
                "Collapse moves a curve, or its left tail, to the left.",
            )
        ]
        if self.collapse is not None:
            pictures.append(
                Picture(
                    name="crowds",
                    draw=partial(draw_crowds, crowds=self.crowds, drawn=self.drawn),
                    size=(4.7, 5.4),
                    caption="Cosine within groups of identities, of one and its nearest (lines), and of any two (dashed). Grey: the nearest of as "
                    "many directions drawn at random. Collapse makes the line of the centers rise to the left.",
                )
            )
        caution = (_BY_CHANCE if self.thinned else _BY_NATURE) + _NOISE
        said = [self.headline()] + ([self._figures(self.collapse)] if self.collapse else [])
        return Section(
            title="Beside learned class centers",
            text="\n\n".join([_CLAIM, " ".join(said), caution]),
            pictures=pictures,
            table=self._table(),
        )

    def _table(self) -> Table:
        rows = [
            (
                crowd.name,
                f"{crowd.identities:,}",
                *(_text(value) for value in (*crowd.vectors.means(), *crowd.centers.means())),
                f"{crowd.beyond().mean():+.3f}",
            )
            for crowd in self.crowds
        ]
        mean, nearest = self.drawn.means()
        return Table(
            header=[
                "images",
                "identities",
                "vectors: any two",
                "nearest",
                "centers: any two",
                "nearest",
                "nearest, centers beyond vectors",
            ],
            rows=rows,
            caption=f"Mean cosines among {len(self.drawn.nearest):,} identities of each group. Of as many directions drawn at random any two have "
            f"{_text(mean)}, one and its nearest {_text(nearest)}. Intervals take identities as independent.",
        )

    def numbers(self) -> dict[str, Any]:
        """For the JSON."""
        return {
            "crowds": [
                {
                    "images": crowd.name,
                    "identities": crowd.identities,
                    "looked_at": len(crowd.vectors.nearest),
                    "vectors": crowd.vectors.means(),
                    "centers": crowd.centers.means(),
                    "angles": {
                        name: _angle_quantiles(crowding)
                        for name, crowding in (("vectors", crowd.vectors), ("centers", crowd.centers))
                    },
                }
                for crowd in self.crowds
            ],
            "drawn_directions": self.drawn.means(),
            "collapse": None
            if self.collapse is None
            else {
                "centers": self.collapse.centers._asdict(),
                "beyond_vectors": self.collapse.beyond._asdict(),
                "found": self.collapse.found,
                "absent": self.collapse.absent,
            },
        }


def compare_centers(table: CodeTable, run: str, seed: int) -> Centers:
    """Compare code vectors with learned centers.

    Args:
        table: codes of the run's identities, with vectors.
        run: a run directory.
        seed: draws the identities that are looked at.

    Raises:
        UserError: no usable run, one whose head has no class centers, or whose people the table lacks.
    """
    opened = open_run(run)
    source = opened.source
    vectors = table.unit_vectors(table.rows_of(source.names, run))
    centers = _class_centers(opened, run)
    images = np.bincount(source.labels, minlength=source.identities)
    found = crowds(vectors, centers, images, seed)
    looked_at = len(found[0].vectors.nearest)
    return Centers(
        crowds=found,
        drawn=drawn_crowding(looked_at, centers.shape[1], seed),
        thinned=isinstance(source, Selection) and source.thinned,
    )


def _class_centers(run: Run, where: str) -> NDArray[np.floating]:
    """Directions ``[C, D]``, of any length, a row for each label."""
    head = run.head
    if isinstance(head, Composed):
        head.connect(run.source)
        with torch.no_grad():
            return head.class_centers(head.codes.of(torch.arange(head.num_classes))).float().numpy()
    if isinstance(head, Softmax):
        return head.weight.detach().float().numpy()
    name = type(head).__name__
    raise UserError(
        f"has the head {name}, which learns no class centers", where, "give a run with a softmax head"
    )


def _angle_quantiles(crowding: Crowding) -> Sequence[float]:
    """Degrees that 0.1, 1, 10, 50 and 90 % of the pairs stay below."""
    cosines = np.quantile(crowding.cosines, [0.999, 0.99, 0.9, 0.5, 0.1])
    return [float(angle) for angle in np.degrees(np.arccos(np.clip(cosines, -1, 1)))]


def _text(cosine: float) -> str:
    return f"{round(cosine, 3) + 0:.3f}"
