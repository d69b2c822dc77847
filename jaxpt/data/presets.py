"""Augmentations by name: what papers do to the images of ``augment``'s views.

Numbers are those of the paper, or of its authors' code where the paper has none, for ImageNet at
224 pixels; the comments say what is not. Everywhere blur and crops are those of ``augment``
(anti-aliased linear; BYOL, DINO and t-ReX resize by cubics). A preset sets all of ``augment``,
``key_augment`` and ``local_augment`` but ``crop_size``; it leaves alone how many views there are,
which belongs to the method.
"""

from typing import Any, NamedTuple

from jaxpt.data.augment import Settings
from jaxpt.errors import require


class Preset(NamedTuple):
    """What is done to views and keys, and to small crops.

    Attributes:
      views: of the large views and the target's keys.
      local: of the small crops; their blur and solarise are shares of all of them.
    """

    views: Settings
    local: Settings


def _preset(views: Settings, **local: Any) -> Preset:
    return Preset(views, views._replace(**local))


OUR_LOCAL_AREA = (0.1, 0.5)  # where a source has no small crops

# Two views differ in blur and solarise alone: the first share is of the first view, the second of
# the second, and of keys.
_BYOL = Settings(
    crop_area=(0.08, 1.0),
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
    # Chen et al., arXiv 2003.04297, and its code; the kernel's side is ours: PIL's has no end.
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
    # Caron et al., ICCV 2021; areas and shares are the code's. Small crops have 96 pixels of 224:
    # set local_augment.crop_size. The kernel's side is ours.
    "dino": _preset(
        _BYOL._replace(crop_area=(0.4, 1.0)), crop_area=(0.05, 0.4), blur=(0.5,), solarise=(0.0,)
    ),
    # Sariyildiz et al., ICLR 2023; numbers of the authors' code (t-ReX* has areas of 0.4 to 1 and
    # 0.05 to 0.4). Small crops have 96 pixels of 224. The kernel's side is ours.
    "t_rex": _preset(
        _BYOL._replace(crop_area=(0.25, 1.0), blur=(0.2,), solarise=(0.2,)),
        crop_area=(0.05, 0.25),
        blur=(0.5,),
        solarise=(0.0,),
    ),
    # What supervised training on ImageNet has done since Szegedy et al., CVPR 2015.
    "imagenet": _preset(Settings(crop_area=(0.08, 1.0), flip=True), crop_area=OUR_LOCAL_AREA),
    # As CIFAR is treated since He et al., CVPR 2016: four pixels, and a flip. There the border is
    # black, here it is repeated.
    "small_images": _preset(Settings(shift=4, flip=True), crop_area=OUR_LOCAL_AREA),
    # Ours: what the configs of digits have, for images that may not be mirrored.
    "grey_digits": _preset(Settings(shift=1, contrast=0.2, noise=0.05), crop_area=OUR_LOCAL_AREA),
}


def apply(config, name: str):
    """Gives a pre-training config the augmentation of that name, and gives the config back.

    Keys are treated as the last of the views is.

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
