"""Pre-training on scikit-learn's digits with two coarse classes (0–4 and 5–9).

    jaxpt pretrain --config=pretrain/digits.py:look --workdir=runs/digits

Variants: every method of ``jaxpt.methods``; append ",smoke" for a run of a few seconds. Only the
four methods that the demo compares are tuned.
"""

from jaxpt.configs.pretrain import defaults

# The best settings of each method in benchmarks/tune.py, by fine-label accuracy on the validation
# part. All trials are in benchmarks/records/tuning_digits.jsonl.
TUNED = {
    "cross_entropy": {"optimizer.learning_rate": 3e-3, "cross_entropy.label_smoothing": 0.1},
    "sup_con": {"optimizer.learning_rate": 1e-3, "temperature": 1.0},
    "nca": {"optimizer.learning_rate": 1e-3, "temperature": 0.05},
    "look": {"optimizer.learning_rate": 1e-3, "look.k": 50},
}


def get_config(variant: str = "look"):
    c = defaults.get_config()
    c.data.source = "digits"
    c.data.label_map = "halves"
    return defaults.apply_tuned(defaults.apply_variant(c, variant), TUNED)
