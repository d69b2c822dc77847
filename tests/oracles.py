"""Slow, obvious float64 versions of the losses and of kNN, written from the formulas.

Plain loops over lists, one query at a time. Ties go to the lower index.
"""

import math

import numpy as np


def as_float64(x):
    return np.asarray(x).astype(np.float64)


def unit(vectors):
    """Rows of length one; a zero row stays zero."""
    rows = as_float64(vectors)
    return np.array([row / math.sqrt(row @ row) if row.any() else row for row in rows])


def log_sum_exp(values):
    largest = max(values)
    return largest + math.log(sum(math.exp(v - largest) for v in values))


def largest(values, k, allowed):
    """Indices of the k largest of the allowed values, the lower index first among equals."""
    return sorted(sorted(allowed), key=lambda j: -values[j])[:k]


def admissible(i, n, query_ids, key_ids, key_mask):
    return [
        j
        for j in range(n)
        if (key_mask is None or key_mask[j]) and (query_ids is None or query_ids[i] != key_ids[j])
    ]


def look(
    queries,
    keys,
    query_labels,
    key_labels,
    *,
    k,
    temperature=0.1,
    query_ids=None,
    key_ids=None,
    key_mask=None,
    no_positive="nearest",
    normalize=True,
):
    """(losses, whether no neighbour is a positive, share of positives among the neighbours)."""
    scale = unit if normalize else as_float64
    queries, keys = scale(queries), scale(keys)
    temperature = float(temperature)  # a NumPy float32 would pull float64 down to its precision
    losses, missing, purity = [], [], []
    for i, q in enumerate(queries):
        s = [float(q @ z) for z in keys]
        allowed = admissible(i, len(keys), query_ids, key_ids, key_mask)
        neighbors = largest(s, np.broadcast_to(k, len(queries))[i], allowed)
        positives = [j for j in neighbors if key_labels[j] == query_labels[i]]
        missing.append(not positives)
        purity.append(len(positives) / max(len(neighbors), 1))
        loss = None
        if not positives and no_positive == "nearest":
            same_class = [j for j in allowed if key_labels[j] == query_labels[i]]
            positives = largest(s, 1, same_class)
            neighbors = neighbors + positives
        elif not positives and no_positive == "floor" and neighbors:
            logits = [s[j] / temperature for j in neighbors]
            loss = log_sum_exp(logits) - min(logits)
        if positives:
            loss = log_sum_exp([s[j] / temperature for j in neighbors]) - log_sum_exp(
                [s[j] / temperature for j in positives]
            )
        losses.append(0.0 if loss is None else loss)
    return np.array(losses), np.array(missing), np.array(purity)


def nca(queries, keys, query_labels, key_labels, **options):
    return look(queries, keys, query_labels, key_labels, k=len(keys), no_positive="drop", **options)


def mean_over_positives(contrast, positives, form="out"):
    """SupCon's loss of one anchor from the logits of its contrast and of its positives."""
    if not positives:
        return 0.0
    total = log_sum_exp(contrast)
    if form == "in":
        return math.log(len(positives)) + total - log_sum_exp(positives)
    return sum(total - s for s in positives) / len(positives)


def sup_con(
    embeddings,
    labels,
    *,
    form="out",
    temperature=0.1,
    keys=None,
    key_labels=None,
    ids=None,
    key_ids=None,
    key_mask=None,
    normalize=True,
):
    scale = unit if normalize else as_float64
    z, temperature = scale(embeddings), float(temperature)
    keys = None if keys is None else scale(keys)
    losses = []
    for i in range(len(z)):
        others = [(z[j], labels[j]) for j in range(len(z)) if j != i]
        if keys is not None:
            others += [
                (keys[j], key_labels[j]) for j in admissible(i, len(keys), ids, key_ids, key_mask)
            ]
        logits = [float(z[i] @ other) / temperature for other, _ in others]
        positives = [s for s, (_, label) in zip(logits, others) if label == labels[i]]
        losses.append(mean_over_positives(logits, positives, form))
    return np.array(losses)


def nt_xent(embeddings, ids, *, temperature=0.5, normalize=True):
    z = unit(embeddings) if normalize else as_float64(embeddings)
    losses = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        logits = {j: float(z[i] @ z[j]) / float(temperature) for j in others}
        losses.append(
            mean_over_positives(
                list(logits.values()), [logits[j] for j in others if ids[j] == ids[i]]
            )
        )
    return np.array(losses)


def spread(embeddings, labels, ids, *, temperature=0.5, weight=0.5, normalize=True):
    z = unit(embeddings) if normalize else as_float64(embeddings)
    losses = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        logits = {j: float(z[i] @ z[j]) / float(temperature) for j in others}
        same_class = [j for j in others if labels[j] == labels[i]]
        views = [j for j in same_class if ids[j] == ids[i]]
        by_class = mean_over_positives([logits[j] for j in others], [logits[j] for j in same_class])
        by_image = mean_over_positives([logits[j] for j in same_class], [logits[j] for j in views])
        losses.append((1 - weight) * by_class + weight * by_image)
    return np.array(losses)


def info_nce(
    queries,
    positives,
    keys=None,
    *,
    temperature=0.1,
    query_ids=None,
    key_ids=None,
    key_mask=None,
    normalize=True,
):
    scale = unit if normalize else as_float64
    queries, positives = scale(queries), scale(positives)
    keys = None if keys is None else scale(keys)
    temperature = float(temperature)
    losses = []
    for i, q in enumerate(queries):
        own = float(q @ positives[i]) / temperature
        if keys is None:
            negatives = [
                positives[j]
                for j in range(len(queries))
                if j != i and (query_ids is None or query_ids[i] != query_ids[j])
            ]
        else:
            negatives = keys[admissible(i, len(keys), query_ids, key_ids, key_mask)]
        losses.append(log_sum_exp([own] + [float(q @ z) / temperature for z in negatives]) - own)
    return np.array(losses)


def nn_clr(
    embeddings,
    predictions,
    keys,
    *,
    temperature=0.1,
    key_ids=None,
    query_ids=None,
    key_mask=None,
    normalize=True,
):
    scale = unit if normalize else as_float64
    embeddings, predictions, keys = scale(embeddings), scale(predictions), scale(keys)
    losses = []
    for i, z in enumerate(embeddings):
        s = [float(z @ key) for key in keys]
        nearest = largest(s, 1, admissible(i, len(keys), query_ids, key_ids, key_mask))
        if not nearest:
            losses.append(0.0)
            continue
        logits = [float(keys[nearest[0]] @ p) / float(temperature) for p in predictions]
        losses.append(log_sum_exp(logits) - logits[i])
    return np.array(losses)


def soft_cross_entropy(
    choose,
    queries,
    positives,
    keys,
    query_labels,
    key_labels,
    *,
    temperature,
    query_ids=None,
    key_ids=None,
    key_mask=None,
    normalize=True,
):
    """Cross-entropy of queries against own positive and keys.

    ``choose(v, keys, same)`` gives the target of the own positive, those of the keys (None for a
    key that is no candidate); v is the own positive, same the admissible keys of its class.
    """
    scale = unit if normalize else as_float64
    queries, positives, keys = scale(queries), scale(positives), scale(keys)
    losses = []
    for i, q in enumerate(queries):
        allowed = admissible(i, len(keys), query_ids, key_ids, key_mask)
        same = [j for j in allowed if key_labels[j] == query_labels[i]]
        own, targets = choose(positives[i], keys, same)
        terms = [(own, float(q @ positives[i]) / float(temperature))]
        terms += [
            (targets[j], float(q @ keys[j]) / float(temperature))
            for j in allowed
            if targets[j] is not None
        ]
        total = log_sum_exp([s for _, s in terms])
        losses.append(sum(t * (total - s) for t, s in terms))
    return np.array(losses)


def sup_moco(*arrays, **options):
    def choose(v, keys, same):
        share = 1 / (1 + len(same))
        return share, [share if j in same else 0.0 for j in range(len(keys))]

    return soft_cross_entropy(choose, *arrays, **options)


def exemplar(*arrays, **options):
    def choose(v, keys, same):
        return 1.0, [None if j in same else 0.0 for j in range(len(keys))]

    return soft_cross_entropy(choose, *arrays, **options)


def mask_con(*arrays, target_temperature=0.05, weight=1.0, **options):
    def choose(v, keys, same):
        nearest = max((float(v @ keys[j]) for j in same), default=0.0)
        z = {j: math.exp((float(v @ keys[j]) - nearest) / target_temperature) for j in same}
        total = 1 + sum(z.values())
        return (
            weight / total + 1 - weight,
            [weight * z.get(j, 0.0) / total for j in range(len(keys))],
        )

    return soft_cross_entropy(choose, *arrays, **options)


def grafit(
    queries, positives, keys, query_labels, key_labels, *, temperature=0.1, weight=0.5, **options
):
    by_class = sup_moco(
        queries, positives, keys, query_labels, key_labels, temperature=temperature, **options
    )
    by_image = info_nce(queries, positives, keys, temperature=temperature, **options)
    return weight * by_class + (1 - weight) * by_image


def cross_entropy(logits, labels, *, label_smoothing=0.0):
    losses = []
    for row, label in zip(as_float64(logits).tolist(), labels):
        total = log_sum_exp(row)
        loss = (1 - label_smoothing) * (total - row[label])
        if label_smoothing:
            loss += label_smoothing * sum(total - x for x in row) / len(row)
        losses.append(loss)
    return np.array(losses)


def entropy(logits):
    losses = []
    for row in as_float64(logits).tolist():
        log_p = [x - log_sum_exp(row) for x in row]
        losses.append(-sum(math.exp(x) * x for x in log_p))
    return np.array(losses)


def slope(function, x, direction, step=1e-6):
    """Central difference of a scalar function along a direction."""
    x = as_float64(x)
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)
