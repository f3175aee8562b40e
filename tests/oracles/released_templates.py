"""The way of the scripts that the field shares for IJB: loops over templates, float64 gathers, and the nearest point of a ROC.

Kept to be measured and compared with, not to be right: the nearest point may lie above the FAR that was asked for.
"""

import numpy as np


def template_features(rows, templates, media):
    """Template labels and unit vectors ``[t, D]`` in float64: a search through all images for each template."""
    labels = np.unique(templates)
    vectors = np.zeros((len(labels), rows.shape[1]))
    for place, label in enumerate(labels):
        vectors[place] = one_template(rows, templates, media, label)
    return labels, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def one_template(rows, templates, media, label):
    (own,) = np.where(templates == label)
    faces, own_media = rows[own], media[own]
    means = []
    for medium in np.unique(own_media):
        (frames,) = np.where(own_media == medium)
        means.append(np.mean(faces[frames], axis=0))
    return np.sum(means, axis=0)


def pair_scores(labels, vectors, left, right, batch=100_000):
    """Cosine of each pair of template labels, in float64."""
    place = np.zeros((labels.max() + 1, 1), dtype=int)
    place[labels, 0] = np.arange(len(labels))
    scores = np.zeros(len(left))
    for start in range(0, len(left), batch):
        part = slice(start, start + batch)
        products = vectors[place[left[part]]] * vectors[place[right[part]]]
        scores[part] = np.sum(products, -1).flatten()
    return scores


def tar_at_fars(scores, same, fars):
    """TAR of the ROC point whose FAR is nearest to each target."""
    from sklearn.metrics import roc_curve

    far, tar, _ = roc_curve(same, scores)
    far, tar = np.flipud(far), np.flipud(tar)
    return [float(tar[min(zip(abs(far - target), range(len(far)), strict=True))[1]]) for target in fars]
