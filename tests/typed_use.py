"""Public functions, called as users call them: `make lint` checks the types of these calls.

mypy is strict here, so that a function without types is an error too; a comment that ignores an
error is one where the call would be fine.
"""

import jax
import numpy as np

from jaxpt import backbones, evaluation, losses, records
from jaxpt.losses import NeighborStats, look
from jaxpt.ops import knn, memory


def labelled(
    queries: jax.Array, keys: jax.Array, of_queries: jax.Array, of_keys: jax.Array, ids: jax.Array
) -> jax.Array:
    per_query, stats = look(
        queries,
        keys,
        of_queries,
        of_keys,
        k=50,
        temperature=0.1,
        query_ids=ids,
        key_mask=None,
        no_positive="drop",
    )
    watched: NeighborStats = stats
    soft, _ = losses.nca(queries, keys, of_queries, of_keys, axis_name="batch")
    total: jax.Array = per_query.mean() + soft.mean() + watched.purity
    total += losses.sup_con(queries, of_queries, form="in", keys=keys, key_labels=of_keys).mean()
    total += losses.sup_moco(queries, queries, keys, of_queries, of_keys).mean()
    total += losses.mask_con(queries, queries, keys, of_queries, of_keys, weight=0.5).mean()
    total += losses.spread(queries, of_queries, ids).mean()
    return total + losses.cross_entropy(queries, of_queries, label_smoothing=0.1).mean()


def unlabelled(first: jax.Array, second: jax.Array, keys: jax.Array, ids: jax.Array) -> jax.Array:
    total = losses.info_nce(first, second, keys).mean() + losses.nt_xent(first, ids).mean()
    total += losses.cosine_regression(first, second).mean()
    return total + losses.barlow_twins(first, second) + losses.vicreg(first, second)


def neighbours(queries: jax.Array, keys: jax.Array, labels: jax.Array, ids: jax.Array) -> None:
    queue = memory.push(memory.create(1024, 128), keys, labels, ids)
    knn.search(queries, queue.keys, 20, key_mask=queue.valid)


def measured(train: np.ndarray, labels: np.ndarray, test: np.ndarray, wanted: np.ndarray) -> float:
    probe = evaluation.linear_probe(train, labels, test, wanted, validation=0.2)
    accuracy: float = probe.accuracy
    predicted: np.ndarray = evaluation.knn_classify(train, labels, test, k=20, temperature=0.07)
    accuracy += evaluation.top1(predicted, wanted) + evaluation.class_separation(test, wanted)
    return accuracy + float(evaluation.few_shot(train, labels, test, wanted, shots=5).mean())


def opened(folder: str, images: np.ndarray) -> np.ndarray:
    records.read(folder)
    return backbones.open_backbone(folder).features(images)


def misused(queries: jax.Array, labels: jax.Array) -> None:
    look(queries, queries, labels, labels, k="50")  # type: ignore[arg-type]
    look(queries, queries, labels, labels)  # type: ignore[call-arg]
    losses.cross_entropy(queries, labels, smoothing=0.1)  # type: ignore[call-arg]
    evaluation.top1(queries, [1, 2])  # type: ignore[arg-type]
