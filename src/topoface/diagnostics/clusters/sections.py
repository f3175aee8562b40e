"""The parts of the page of ``topoface clusters report``: pictures, tables, and how to read them."""

from functools import partial

import numpy as np

from topoface.diagnostics.calibration import Estimate, mean_over
from topoface.diagnostics.clusters.faces import Album, similar_faces, suspicious_faces
from topoface.diagnostics.clusters.findings import CHANCE, MEMORISED, Findings
from topoface.diagnostics.clusters.graph import COSINES, NEIGHBOURS, Graph
from topoface.diagnostics.clusters.identities import LEAST_SPLIT, SAME
from topoface.diagnostics.clusters.pictures import (
    draw_cohesion,
    draw_cosines,
    draw_gammas,
    draw_levels,
    draw_sweep,
)
from topoface.diagnostics.clusters.scores import COLLECTED, suspects
from topoface.diagnostics.page import Picture, Section, Table
from topoface.diagnostics.prediction import Floats
from topoface.functional.center_memory import LEAST_COHESION


def levels_section(found: Findings) -> Section:
    """Where images lie among the centers."""
    clusters, planted = found.clusters, found.planted
    wrong = None if planted is None else planted.true != clusters.labels
    alone = int((~clusters.company).sum())
    text = (
        "Each identity's center is the mean of its images. a is an image's cosine to its own center, b to the nearest other one. The hard "
        "level is half of one minus the silhouette (a − b)/max(1 − a, 1 − b): above ½ exactly if another center is nearer.\n\n"
        "An image is part of its own center and pulls it along, so the statements here leave it out. The rest makes a poorer center where images are few, so they "
        "look harder than they are; the table by size tells how much."
    )
    if alone:
        text += f" {alone:,} images are the only one of their label and have no such level."
    pictures = [
        Picture(
            name="levels",
            draw=partial(
                draw_levels,
                level=clusters.level_left_out,
                planted=wrong,
                name="hard level h, own image left out",
            ),
            caption="Hard levels of the images by the network as it is now. Right of the line, another identity's center is nearer. Where "
            "bars are tall, the scale is logarithmic from 10 images on.",
        ),
        Picture(
            name="cosines",
            draw=partial(
                draw_cosines, own=clusters.own, left_out=clusters.own_left_out, other=clusters.other
            ),
            caption="The further a lies from b, the better the clusters are told apart. The dashed line is what an image adds to its own center.",
        ),
    ]
    if found.collected is not None and found.main == COLLECTED:
        pictures.append(
            Picture(
                name="scores",
                draw=partial(
                    draw_levels, level=found.score, planted=wrong, name="score (running hard level)"
                ),
                caption="The same level as the run collected it: a running mean (0.7 old, 0.3 new) over the visits to each image, by the "
                "centers of that time.",
            )
        )
    return Section(title="How hard images sit in their clusters", text=text, pictures=pictures)


def planted_section(found: Findings) -> Section:
    """How well the scores find labels that are known to be wrong."""
    planted = found.planted
    assert planted is not None
    wrong = int((planted.true != found.clusters.labels).sum())
    return Section(
        title="Labels known to be wrong",
        text=f"{wrong:,} of {len(planted.true):,} labels ({wrong / len(planted.true):.1%}) are known to be wrong. Of the {wrong:,} highest scores "
        f"{planted.hit:.1%} are among them. For {planted.suggested:.1%} of them the nearest other center is that of the "
        "true identity.",
        table=Table(
            header=["score", "AUC, 95 %"],
            rows=[[name, _estimate(auc)] for name, auc in planted.auc.items()],
            caption="Probability that a wrong label scores above a right one; chance is 0.5. Bootstrap over identities. The first score ranks the "
            "images on this page; the others are worked out from the network as it is now.",
        ),
    )


def suspicious_section(found: Findings, album: Album, count: int) -> Section:
    """Faces with the highest scores."""
    score = found.score
    true = None if found.planted is None else found.planted.true
    shown = found.order[:count]
    source = (
        "collected by JLCC while the run trained (our reconstruction of it from the paper's abstract, the only part that could be read)"
        if found.main == COLLECTED
        else "worked out now, since the run did not collect any in training; the JLCC preset watch does, and changes nothing else"
    )
    early = found.collected is not None and found.collected.early
    warning = (
        " The run is still too young for them: they are worth reading two epochs after the start of JLCC's ramp."
        if early
        else ""
    )
    text = (
        f"Scores are silhouette levels, {source}.{warning} {int(suspects(score).sum()):,} of {len(found.order):,} are above ½.\n\n"
        "Beside each face: the most typical other face of its label, then that of the identity whose center is the nearest other one. A wrong "
        "label looks like the third and not the second. A face that looks like the second is merely hard (profile, blur, age), and relatives or "
        "one person under two labels look like both. No score can tell these apart, and training erases the trace: a network that has "
        "memorised a wrong label finds it right. All images, ranked, are in clusters_samples.csv."
    )
    return Section(
        title="The most suspicious images",
        text=text,
        faces=suspicious_faces(album, shown, score, found.suspected, true),
    )


def similar_section(found: Findings, album: Album, count: int) -> Section:
    """Two labels for one person."""
    similar = found.similar
    mutual = similar.mutual(found.clusters.sizes)
    text = (
        f"γ is the cosine of two centers freed of the noise that few images bring: about 1 if both are one person. Of {similar.compared:,} "
        f"pairs of identities (cohesion {LEAST_COHESION} or more), {similar.above:,} reach {SAME:g}, most of them because a cohesion of few "
        "images came out too small. So the images must say the same: have the other identity's center as their nearest other one. "
        f"Some image does in {len(mutual):,} of these pairs, half of the images of each identity do in {mutual.sum():,}.\n\n"
    )
    if len(similar.halves):
        low, middle, high = np.quantile(similar.halves, [0.05, 0.5, 0.95])
        text += (
            f"The yardstick: {len(similar.halves):,} identities of {LEAST_SPLIT} images or more, split at random into halves, give γ {middle:.2f} "
            f"(90 % of them {low:.2f} to {high:.2f}). But the network was taught that two labels are two people, so one person under two labels "
            "comes out lower than these halves. Relatives come out high too: look at the faces."
        )
    return Section(
        title="Two labels, one person?",
        text=text,
        pictures=[
            Picture(
                name="gammas",
                draw=partial(draw_gammas, similar=similar),
                caption="All pairs of identities, and the halves of one identity each. Where both overlap, pairs may be one person. The "
                "outermost bars hold all that lies beyond.",
            )
        ],
        faces=similar_faces(album, similar, count),
    )


def agreement_section(found: Findings, class_center_cosines: Floats | None) -> Section:
    """Clusters against labels."""
    text = "Every image goes to the nearest center: how well do these clusters agree with the labels?"
    if found.memorised:
        text += (
            f"\n\nRead these as nothing: fewer than {MEMORISED:.0%} of the images are nearer to another center, even with the own one freed of "
            "the image. A network that has memorised its labels looks just so, right or wrong as they may be."
        )
    else:
        text += "\n\nThese are training images: the network was taught these very labels, so the figures flatter, and more so the longer it trained."
    if class_center_cosines is not None:
        low, middle = np.quantile(class_center_cosines, [0.01, 0.5])
        text += f"\n\nCosine between the head's class centers and these means: median {middle:.3f}, lowest hundredth below {low:.3f}."
    rows = []
    for name in found.agreed[CHANCE]:
        cells = [f"{figures[name]:.3f}" for figures in found.agreed.values()]
        if name in found.intervals:
            cells[0] = _estimate(found.intervals[name])
        rows.append([name, *cells])
    return Section(
        title="Clusters against labels",
        text=text,
        table=Table(
            header=["", *found.agreed],
            rows=rows,
            caption="1 is perfect. A center of few images is near to each of them whatever they show, so the column with the own image in it "
            "flatters. Chance: clusters of the same sizes, dealt out at random; NMI is high there because there are many small clusters. "
            "Intervals: 95 %, bootstrap over identities with the clusters as they are.",
        ),
    )


def graph_section(graph: Graph) -> Section:
    """Clusters that know nothing of the labels."""
    text = (
        f"Each image is linked to those of its {NEIGHBOURS} nearest neighbours whose cosine is high enough, and what hangs together is a cluster; no label "
        "takes part. How high is enough is the whole question: too high, and people fall apart; too low, and one link joins two of them. So the cosine is "
        f"chosen on one half of the identities and judged on the other: {graph.images:,} images of {graph.identities:,} identities of {graph.source}.\n\n"
    )
    text += (
        "The network was not trained on these images: this is how well it sorts faces of strangers."
        if graph.held_out
        else "These are training images, and the network was taught their labels, which flatters it; --held-out shows how it sorts strangers."
    )
    return Section(
        title="Clusters found without labels",
        text=text,
        pictures=[
            Picture(
                name="graph",
                draw=partial(
                    draw_sweep, cosines=COSINES, curves=graph.curves(), chosen=float(COSINES[graph.chosen])
                ),
                caption="The half that is judged, at every cosine.",
            )
        ],
        table=Table(
            header=[
                "",
                *(
                    f"{name} ({COSINES[at]:.3f})"
                    for name, at in zip(graph.figures, (graph.chosen, graph.best), strict=True)
                ),
            ],
            rows=[
                [name, *(f"{figures[name]:.3f}" for figures in graph.figures.values())]
                for name in next(iter(graph.figures.values()))
            ],
            caption="1 is perfect.",
        ),
    )


def sizes_section(found: Findings) -> Section:
    """Everything by how many images an identity has."""
    clusters = found.clusters
    sizes, rho = clusters.sizes, clusters.cohesion
    size_of = sizes[clusters.labels]
    nearer = clusters.other > clusters.own_left_out
    rows = []
    for power in range(int(np.log2(sizes.max())) + 1):
        least, most = 2**power, 2 ** (power + 1) - 1
        there, here = (sizes >= least) & (sizes <= most), (size_of >= least) & (size_of <= most)
        if not there.any():
            continue
        defined = here & clusters.company
        share = (
            mean_over(nearer[defined].astype(np.float64), clusters.labels[defined]) if defined.any() else None
        )
        stated = rho[there & ~np.isnan(rho)]
        rows.append(
            [
                str(least) if power == 0 else f"{least:,} to {most:,}",
                f"{there.sum():,}",
                f"{here.sum():,}",
                "–" if share is None else _share(share),
                f"{np.median(clusters.level_left_out[defined]):.3f}" if defined.any() else "–",
                f"{np.median(stated):.3f}" if len(stated) else "–",
            ]
        )
    return Section(
        title="By size of the identity",
        text="ρ̂ is the mean similarity of two images of an identity, estimated without forming a pair and freed of the bias that few images bring; "
        "it does not depend on their number, and scatters more where they are few. An identity far below the others holds unlike faces: years "
        "apart, several people, or wrong labels.",
        pictures=[
            Picture(
                name="cohesion",
                draw=partial(draw_cohesion, sizes=sizes, cohesion=rho),
                caption="Cohesion of each identity. Bars span 80 % of the identities of about equal size.",
            )
        ],
        table=Table(
            header=[
                "images of the identity",
                "identities",
                "images",
                "nearer to another, 95 %",
                "median h",
                "median ρ̂",
            ],
            rows=rows,
            caption="Nearer to another, and h: own image left out.",
        ),
    )


def _estimate(figure: Estimate) -> str:
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def _share(figure: Estimate) -> str:
    return f"{figure.value:.1%} ({figure.low:.1%} to {figure.high:.1%})"
