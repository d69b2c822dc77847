"""Pre-training on glyphs with three coarse classes (upper case, lower case, digit).

    scripts/fetch_glyphs.sh fonts
    jaxpt pretrain --config=pretrain/glyphs.py:look --config.data.path=fonts --workdir=runs/glyphs

16 pixels and a small network, for CPUs. Variants: every method of ``jaxpt.methods``; append
",smoke" for a run of a few seconds. ``benchmarks/transfer_study.py`` tunes its own settings.
"""

from jaxpt.configs.pretrain import defaults


def get_config(variant: str = "look"):
    c = defaults.get_config()
    c.data.source = "glyphs"
    c.data.label_map = "level:1"
    c.data.image_size = 16
    c.duration = "5 epochs"
    c.batch_size = 128
    c.model.options = {"widths": (16, 32, 64, 128), "strides": (1, 2, 1, 2)}
    c.memory = 2_048
    c.ema = 0.99
    c.knn_every = "1 epochs"
    c.checkpoint_every = "1 epochs"
    return defaults.apply_variant(c, variant)
