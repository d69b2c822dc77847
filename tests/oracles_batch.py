"""Slow, obvious float64 versions of the losses of classes, regression, decorrelation and DINO."""

import math

import numpy as np
from oracles import admissible, as_float64, cross_entropy, log_sum_exp, unit


def cosine_softmax(embeddings, prototypes, labels, *, temperature=0.1, label_smoothing=0.0):
    z, w = unit(embeddings), unit(prototypes)
    logits = np.array([[float(a @ b) / float(temperature) for b in w] for a in z])
    return cross_entropy(logits, labels, label_smoothing=label_smoothing)


def prototype_softmax(
    queries,
    keys,
    query_labels,
    key_labels,
    *,
    classes,
    temperature=0.1,
    query_ids=None,
    key_ids=None,
    key_mask=None,
    normalize=True,
):
    scale = unit if normalize else as_float64
    queries, keys = scale(queries), scale(keys)
    losses = []
    for i, q in enumerate(queries):
        everything = admissible(i, len(keys), None, None, key_mask)
        others = admissible(i, len(keys), query_ids, key_ids, key_mask)
        logits = {}
        for c in range(classes):
            members = [
                keys[j]
                for j in (others if c == query_labels[i] else everything)
                if key_labels[j] == c
            ]
            if members:
                mean = scale([sum(members) / len(members)])[0]
                logits[c] = float(q @ mean) / float(temperature)
        own = logits.get(query_labels[i])
        losses.append(0.0 if own is None else log_sum_exp(list(logits.values())) - own)
    return np.array(losses)


def cosine_regression(predictions, targets):
    return np.array([2 - 2 * float(p @ t) for p, t in zip(unit(predictions), unit(targets))])


def columns(rows):
    """The columns of a matrix as lists of floats, and their means."""
    listed = [[float(x) for x in column] for column in as_float64(rows).T]
    return listed, [sum(column) / len(column) for column in listed]


def covariances(first, second, degrees):
    (a, a_means), (b, b_means) = columns(first), columns(second)
    return np.array(
        [
            [sum((x - m) * (y - k) for x, y in zip(p, q)) / degrees for q, k in zip(b, b_means)]
            for p, m in zip(a, a_means)
        ]
    )


def barlow_twins(first, second, *, redundancy=0.0051, where=None):
    first, second = kept(first, where), kept(second, where)
    if not len(first):
        return 0.0
    spreads = [
        [math.sqrt(x + 1e-5) for x in np.diag(covariances(z, z, len(z)))] for z in (first, second)
    ]
    c = covariances(first, second, len(first)) / np.outer(*spreads)
    return sum(
        (1 - c[i, j]) ** 2 if i == j else redundancy * c[i, j] ** 2
        for i in range(len(c))
        for j in range(len(c))
    )


def vicreg(first, second, *, invariance=25.0, variance=25.0, covariance=1.0, where=None):
    first, second = kept(first, where), kept(second, where)
    if not len(first):
        return 0.0
    n, dim = first.shape
    loss = invariance * sum(float(x) ** 2 for x in (first - second).ravel()) / (n * dim)
    for z in first, second:
        c = covariances(z, z, max(n - 1, 1))
        hinges = [max(0.0, 1 - math.sqrt(c[j, j] + 1e-4)) for j in range(dim)]
        loss += variance * sum(hinges) / dim / 2
        loss += (
            covariance * sum(c[i, j] ** 2 for i in range(dim) for j in range(dim) if i != j) / dim
        )
    return loss


def dino(student, teacher, centre, *, student_temperature=0.1, teacher_temperature=0.04):
    student, teacher, centre = map(as_float64, (student, teacher, centre))
    losses = []
    for i in range(student.shape[1]):
        pairs = []
        for t, s in np.ndindex(len(teacher), len(student)):
            if t != s:
                target = log_softmax((teacher[t, i] - centre) / float(teacher_temperature))
                guess = log_softmax(student[s, i] / float(student_temperature))
                pairs.append(-sum(math.exp(p) * q for p, q in zip(target, guess)))
        losses.append(sum(pairs) / len(pairs))
    return np.array(losses)


def move_centre(centre, teacher, *, momentum=0.9, where=None):
    teacher = as_float64(teacher)
    rows = [
        view[i] for view in teacher for i in range(teacher.shape[1]) if where is None or where[i]
    ]
    mean = sum(rows) / len(rows) if rows else as_float64(centre)
    return float(momentum) * as_float64(centre) + (1 - float(momentum)) * mean


def kept(rows, where):
    return as_float64(rows) if where is None else as_float64(rows)[np.asarray(where, bool)]


def log_softmax(row):
    row = [float(x) for x in row]
    total = log_sum_exp(row)
    return [x - total for x in row]
