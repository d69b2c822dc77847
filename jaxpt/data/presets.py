"""Augmentation presets from papers, by name.

Numbers are those of the paper, or of its authors' code if the paper has none, for ImageNet at 224
pixels; comments mark exceptions. Blur is always that of ``augment``, and crops are antialiased,
which those of SimCLR's and BYOL's code are not. A preset sets all fields of ``augment``,
``key_augment`` and ``local_augment`` except ``crop_size``. The number of views belongs to the
method and is not set.
"""

from typing import Any, NamedTuple

from jaxpt.data.augment import Settings
from jaxpt.errors import require


class Preset(NamedTuple):
    """Augmentation settings of views and keys, and of small crops.

    Attributes:
      views: settings of the large views and of the target's keys.
      local: settings of the small crops; blur and solarise are probabilities for all of them.
    """

    views: Settings
    local: Settings


def _preset(views: Settings, **local: Any) -> Preset:
    return Preset(views, views._replace(**local))


OUR_LOCAL_AREA = (0.1, 0.5)  # for sources without small crops

# The two views differ only in blur and solarise: the first probability is for the first view, the
# second for the second view and for keys.
_BYOL = Settings(
    crop_area=(0.08, 1.0),
    crop_interpolation="bicubic",
    flip=True,
    jitter=(0.4, 0.4, 0.2, 0.1),
    jitter_probability=0.8,
    grey=0.2,
    blur=(1.0, 0.1),
    blur_sigma=(0.1, 2.0),
    blur_size=0.1,
    solarise=(0.0, 0.2),
)

PRESETS = {
    # Chen et al., ICML 2020, appendix A, colour distortion of strength 1.
    "simclr": _preset(
        Settings(
            crop_area=(0.08, 1.0),
            crop_interpolation="bicubic",
            flip=True,
            jitter=(0.8, 0.8, 0.8, 0.2),
            jitter_probability=0.8,
            grey=0.2,
            blur=(0.5,),
            blur_sigma=(0.1, 2.0),
            blur_size=0.1,
        ),
        crop_area=OUR_LOCAL_AREA,
    ),
    # Chen et al., arXiv 2003.04297, and its code; the kernel size is ours, as PIL's is unbounded.
    "moco_v2": _preset(
        Settings(
            crop_area=(0.2, 1.0),
            flip=True,
            jitter=(0.4, 0.4, 0.4, 0.1),
            jitter_probability=0.8,
            grey=0.2,
            blur=(0.5,),
            blur_sigma=(0.1, 2.0),
            blur_size=0.1,
        ),
        crop_area=OUR_LOCAL_AREA,
    ),
    # Grill et al., NeurIPS 2020, appendix B.
    "byol": _preset(_BYOL, crop_area=OUR_LOCAL_AREA, blur=(0.5,), solarise=(0.0,)),
    # Caron et al., ICCV 2021; areas and probabilities are from the code. Small crops have 96 pixels
    # and large ones 224: set local_augment.crop_size. The kernel size is ours.
    "dino": _preset(
        _BYOL._replace(crop_area=(0.4, 1.0)), crop_area=(0.05, 0.4), blur=(0.5,), solarise=(0.0,)
    ),
    # Sariyildiz et al., ICLR 2023; numbers of the authors' code (t-ReX* has areas of 0.4 to 1 and
    # 0.05 to 0.4). Small crops have 96 pixels, large ones 224. The kernel size is ours.
    "t_rex": _preset(
        _BYOL._replace(crop_area=(0.25, 1.0), blur=(0.2,), solarise=(0.2,)),
        crop_area=(0.05, 0.25),
        blur=(0.5,),
        solarise=(0.0,),
    ),
    # The standard for supervised training on ImageNet since Szegedy et al., CVPR 2015.
    "imagenet": _preset(Settings(crop_area=(0.08, 1.0), flip=True), crop_area=OUR_LOCAL_AREA),
    # The standard for CIFAR since He et al., CVPR 2016: shifts by four pixels and flips. There, the
    # border is black, here it is repeated.
    "small_images": _preset(Settings(shift=4, flip=True), crop_area=OUR_LOCAL_AREA),
    # Ours: as in the digits configs, for images that must not be mirrored.
    "grey_digits": _preset(Settings(shift=1, contrast=0.2, noise=0.05), crop_area=OUR_LOCAL_AREA),
}


def apply(config, name: str):
    """Sets the augmentation preset of a pre-training config in place, and returns the config.

    Keys get the augmentation of the last view.

    Raises:
      InputError: for an unknown name.
    """
    require(
        name in PRESETS,
        f"an augmentation preset must be one of {', '.join(PRESETS)}, got {name!r}.",
    )
    views, local = PRESETS[name]
    for part, settings in (("augment", views), ("key_augment", views), ("local_augment", local)):
        config[part].update(settings._asdict() | {"crop_size": config[part].crop_size})
    return config
