"""scikit-learn's digits, pre-trained on two coarse classes (0–4 and 5–9).

    jaxpt pretrain --config=pretrain/digits.py:look --workdir=runs/digits

Variants: look, nca, sup_con, cross_entropy; add ",smoke" for a run of seconds.
"""

from jaxpt.configs.pretrain import defaults


def get_config(variant: str = "look"):
    c = defaults.get_config()
    c.data.source = "digits"
    c.data.label_map = "halves"
    return defaults.apply_variant(c, variant)
