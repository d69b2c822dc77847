"""Pre-training on Fashion-MNIST with five coarse classes (tops, trouser, dress, shoes, bag).

    jaxpt pretrain --config=pretrain/fashion_mnist.py:look --workdir=runs/fashion

Uses the first 6,000 training images of a fixed shuffle, so that a run takes minutes on one CPU
core; ``--config.data.limit=0`` uses all 60,000. Variants: every method of ``jaxpt.methods``; append
",smoke" for a run of a few seconds. Only the four methods that the benchmarks compare are tuned.
"""

from jaxpt.configs.pretrain import defaults

# The best settings of each method in benchmarks/tune.py, by fine-label accuracy on the validation
# part. All trials are in benchmarks/records/tuning_fashion_mnist.jsonl.
TUNED = {
    "cross_entropy": {"optimizer.learning_rate": 1e-2, "cross_entropy.label_smoothing": 0.2},
    "sup_con": {"optimizer.learning_rate": 3e-3, "temperature": 0.1},
    "nca": {"optimizer.learning_rate": 1e-3, "temperature": 0.05},
    "look": {"optimizer.learning_rate": 1e-3, "look.k": 300},
}


def get_config(variant: str = "look"):
    c = defaults.get_config()
    c.data.source = "fashion_mnist"
    c.data.label_map = "fashion5"
    c.data.limit = 6_000
    c.duration = "8 epochs"
    c.batch_size = 120
    c.augment.shift = c.key_augment.shift = 2
    c.augment.flip = c.key_augment.flip = True
    c.model.options = {"widths": (16, 32, 64, 128), "strides": (2, 2, 1, 2)}
    c.memory = 2_400
    c.ema = 0.99
    c.knn_every = "2 epochs"
    c.checkpoint_every = "2 epochs"
    return defaults.apply_tuned(defaults.apply_variant(c, variant), TUNED)
