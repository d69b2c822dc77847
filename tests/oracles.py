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
    return [j for j in range(n)
            if (key_mask is None or key_mask[j])
            and (query_ids is None or query_ids[i] != key_ids[j])]


def look(queries, keys, query_labels, key_labels, *, k, temperature=0.1, query_ids=None,
         key_ids=None, key_mask=None, no_positive="nearest", normalize=True):
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
            loss = (log_sum_exp([s[j] / temperature for j in neighbors])
                    - log_sum_exp([s[j] / temperature for j in positives]))
        losses.append(0.0 if loss is None else loss)
    return np.array(losses), np.array(missing), np.array(purity)


def nca(queries, keys, query_labels, key_labels, **options):
    return look(queries, keys, query_labels, key_labels, k=len(keys), no_positive="drop",
                **options)


def sup_con(embeddings, labels, *, temperature=0.1, normalize=True, where=None):
    z = unit(embeddings) if normalize else as_float64(embeddings)
    where = np.ones(len(z), bool) if where is None else where
    temperature = float(temperature)
    losses = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i and where[j]]
        positives = [j for j in others if labels[j] == labels[i]]
        if not where[i] or not positives:
            losses.append(0.0)
            continue
        total = log_sum_exp([float(z[i] @ z[j]) / temperature for j in others])
        losses.append(sum(total - float(z[i] @ z[p]) / temperature for p in positives)
                      / len(positives))
    return np.array(losses)


def info_nce(queries, positives, keys, *, temperature=0.1, query_ids=None, key_ids=None,
             key_mask=None, normalize=True):
    scale = unit if normalize else as_float64
    queries, positives, keys = scale(queries), scale(positives), scale(keys)
    temperature = float(temperature)
    losses = []
    for i, q in enumerate(queries):
        own = float(q @ positives[i]) / temperature
        negatives = [float(q @ keys[j]) / temperature
                     for j in admissible(i, len(keys), query_ids, key_ids, key_mask)]
        losses.append(log_sum_exp([own] + negatives) - own)
    return np.array(losses)


def cross_entropy(logits, labels, *, label_smoothing=0.0):
    losses = []
    for row, label in zip(as_float64(logits).tolist(), labels):
        total = log_sum_exp(row)
        loss = (1 - label_smoothing) * (total - row[label])
        if label_smoothing:
            loss += label_smoothing * sum(total - x for x in row) / len(row)
        losses.append(loss)
    return np.array(losses)


def slope(function, x, direction, step=1e-6):
    """Central difference of a scalar function along a direction."""
    x = as_float64(x)
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)
