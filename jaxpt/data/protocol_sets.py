"""Definitions of the named transfer protocols: sources of the datasets, splits and their sizes.

Letters in the comments below give the source of each fact:
K  Kornblith et al. 2019, "Do better ImageNet models transfer better?" (arXiv 1805.08974), as
   quoted by later papers: metrics, 224 pixels, validation. No code of its authors was found by us.
T  the builders and lists shipped with TensorFlow Datasets 4.9, and the pages of its catalog
V  VTAB's code, github.com/google-research/task_adaptation: its slices and tasks
P  the dataset's own paper or page, as quoted by others
U  unchecked: assumed, as no source could be read. A wrong size is an error when it is first loaded.
"""

from typing import NamedTuple

TOP1, MEAN_PER_CLASS, VOC07_MAP = "top1", "mean_per_class", "voc07_map"


class Protocol(NamedTuple):
    """A transfer dataset and its protocol.

    Attributes:
      source: "tfds:NAME:VERSION", "archive:NAME" (a reader in ``archives``) or a name that
        ``small_sets`` reads.
      classes: number of classes.
      sizes: required number of examples of each part; of train and validation only if they are
        defined by a fixed list or slice.
      metric: "top1", "mean_per_class" or "voc07_map".
      train, validation, test: splits of the source, in tfds' slicing language. Without a
        validation split, a fixed fifth of train is validation (``dataset.validation_mask``).
      resize, crop: see ``decode.Framing``; 0 and 0 keep the original size.
      task: key of ``tfds.TASKS``.
      split_rule: "" or "eurosat", see ``protocols.eurosat_trainval``.
      get: what to download manually, and the folder layout; "" if it is downloaded automatically.
    """

    source: str
    classes: int
    sizes: dict[str, int]
    metric: str = TOP1
    train: str = "train"
    validation: str = ""
    test: str = "test"
    resize: int = 224
    crop: int = 224
    task: str = "label"
    split_rule: str = ""
    get: str = ""


def _sizes(trainval: int, test: int, train: int = 0, validation: int = 0) -> dict[str, int]:
    official = {"train": train, "validation": validation} if train else {}
    return {**official, "trainval": trainval, "test": test}


# K: the shorter side is resized to 224 pixels (bicubic) and the center cropped; validation is the
# official part for Aircraft, DTD, Flowers and VOC07, else a fifth of train. The choice of the fifth
# is ours.
KORNBLITH = {
    "cifar10": Protocol("tfds:cifar10:3.*.*", 10, _sizes(50_000, 10_000)),  # P
    "cifar100": Protocol("tfds:cifar100:3.*.*", 100, _sizes(50_000, 10_000)),  # P
    # T: tfds calls the published test part validation.
    "food101": Protocol("tfds:food101:2.*.*", 101, _sizes(75_750, 25_250), test="validation"),
    "birdsnap": Protocol(  # P: sizes; many of its links are dead
        "archive:birdsnap",
        500,
        _sizes(47_386, 2_443),
        get=(
            "thomasberg.org/datasets/birdsnap/1.1/birdsnap.tgz, whose get_birdsnap.py fetches the "
            "images to download/images; data.path is the folder with test_images.txt. Many links "
            "are dead: only an old copy is complete."
        ),
    ),
    "sun397": Protocol(  # P: partition 1 of ten; tfds' default config is another split
        "archive:sun397",
        397,
        _sizes(19_850, 19_850),
        get=(
            "SUN397.tar.gz and Partitions.zip from vision.princeton.edu/projects/2010/SUN; "
            "data.path is the folder with SUN397/a/abbey/… and Training_01.txt, Testing_01.txt and "
            "ClassName.txt (also in Partitions/)."
        ),
    ),
    "cars": Protocol(  # T: sizes; the download no longer exists
        "archive:cars",
        196,
        _sizes(8_144, 8_041),
        get=(
            "Stanford Cars: cars_train/, cars_test/, devkit/ and "
            "cars_test_annos_withlabels.mat, all in the folder data.path."
        ),
    ),
    "aircraft": Protocol(  # trainval and test: P; train and validation: U
        "archive:aircraft",
        100,
        _sizes(6_667, 3_333, 3_334, 3_333),
        MEAN_PER_CLASS,
        validation="validation",
        get=(
            "fgvc-aircraft-2013b.tar.gz from www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft; "
            "data.path is its folder."
        ),
    ),
    "voc07": Protocol(  # T
        "tfds:voc/2007:5.*.*",
        20,
        _sizes(5_011, 4_952, 2_501, 2_510),
        VOC07_MAP,
        validation="validation",
        task="voc",
    ),
    "dtd": Protocol(  # T: the first of ten splits
        "tfds:dtd:3.*.*", 47, _sizes(3_760, 1_880, 1_880, 1_880), validation="validation"
    ),
    "pets": Protocol(  # P
        "tfds:oxford_iiit_pet:4.*.*", 37, _sizes(3_680, 3_669), MEAN_PER_CLASS
    ),
    # T: train is 30 images of each of 102 classes (with background), drawn by tfds. U: that 6,084
    # remain (9,144 images in all), and that K drew the same ones.
    "caltech101": Protocol("tfds:caltech101:3.*.*", 102, _sizes(3_060, 6_084), MEAN_PER_CLASS),
    "flowers102": Protocol(  # P: trainval and test; T: the parts; their 1,020 each: U
        "tfds:oxford_flowers102:2.*.*",
        102,
        _sizes(2_040, 6_149, 1_020, 1_020),
        MEAN_PER_CLASS,
        validation="validation",
    ),
}

OTHERS = {
    # T: 27,000 in one split. Sizes 18,900 / 8,100 are from t-ReX (Sariyildiz et al. 2023), whose
    # choice of images is unknown; ours is in ``protocols.eurosat_trainval``.
    "eurosat": Protocol(
        "tfds:eurosat/rgb:2.*.*", 10, _sizes(18_900, 8_100), test="train", split_rule="eurosat"
    ),
    "imagenet": Protocol(  # U: sizes. The published validation part is the test part here
        "tfds:imagenet2012:5.*.*",
        1000,
        _sizes(1_281_167, 50_000),
        test="validation",
        get=(
            "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org, in "
            "downloads/manual below tfds' data folder."
        ),
    ),
    "digits": Protocol("digits", 10, _sizes(1_200, 597), resize=0, crop=0),
    "fashion_mnist": Protocol("fashion_mnist", 10, _sizes(60_000, 10_000), resize=0, crop=0),
}


def _vtab(
    source: str,
    classes: int,
    test_size: int,
    *,
    validation=("validation", 0),
    test: str = "test",
    **others,
) -> Protocol:
    """Protocol of VTAB-1k (V): 800 training examples, 200 for validation, the whole test part.

    V resizes the whole image to 224 × 224, ignoring its aspect ratio, with TensorFlow's bilinear
    interpolation; ours is Pillow's bicubic.

    Args:
      source, classes, test, others: see ``Protocol``.
      test_size: number of test examples.
      validation: the tfds split, and the position in it where V's validation part begins.
    """
    split, first = validation
    return Protocol(
        source,
        classes,
        _sizes(1_000, test_size, 800, 200),
        train="train[:800]",
        validation=f"{split}[{first}:{first + 200}]",
        test=test,
        crop=0,
        **others,
    )


# V: without a validation part, it is the end of train, after 90 % of it (Caltech-101, CIFAR-100,
# SVHN, CLEVR), 80 % (Pets, dSprites) or 60 % (EuroSAT and RESISC45, whose last 20 % are the test
# part). Sizes: T and V, but U for CLEVR's 70,000 + 15,000.
VTAB = {
    "vtab_caltech101": _vtab("tfds:caltech101:3.*.*", 102, 6_084, validation=("train", 2_754)),
    "vtab_cifar100": _vtab("tfds:cifar100:3.*.*", 100, 10_000, validation=("train", 45_000)),
    "vtab_dtd": _vtab("tfds:dtd:3.*.*", 47, 1_880),
    "vtab_flowers102": _vtab("tfds:oxford_flowers102:2.*.*", 102, 6_149),
    # V uses version 3 of Pets, which tfds no longer has: the slices may contain other images.
    "vtab_pets": _vtab("tfds:oxford_iiit_pet:4.*.*", 37, 3_669, validation=("train", 2_944)),
    "vtab_svhn": _vtab("tfds:svhn_cropped:3.*.*", 10, 26_032, validation=("train", 65_931)),
    "vtab_sun397": _vtab(
        "tfds:sun397/tfds:4.*.*",
        397,
        21_750,
        get=("The download is gone: data.path must be the folder of a copy prepared by tfds."),
    ),
    "vtab_patch_camelyon": _vtab("tfds:patch_camelyon:2.*.*", 2, 32_768),
    "vtab_eurosat": _vtab(
        "tfds:eurosat/rgb:2.*.*", 10, 5_400, validation=("train", 16_200), test="train[21600:]"
    ),
    "vtab_resisc45": _vtab(
        "tfds:resisc45:3.*.*",
        45,
        6_300,
        validation=("train", 18_900),
        test="train[25200:]",
        get=("NWPU-RESISC45.rar, in downloads/manual below tfds' data folder."),
    ),
    "vtab_retinopathy": _vtab(
        "tfds:diabetic_retinopathy_detection/btgraham-300:3.*.*",
        5,
        42_670,
        get=(
            "The images and trainLabels.csv of kaggle.com/c/diabetic-retinopathy-detection, in "
            "downloads/manual below tfds' data folder."
        ),
    ),
    "vtab_clevr_count": _vtab(
        "tfds:clevr:3.*.*", 8, 15_000, validation=("train", 63_000), test="validation", task="count"
    ),
    "vtab_clevr_distance": _vtab(
        "tfds:clevr:3.*.*",
        6,
        15_000,
        validation=("train", 63_000),
        test="validation",
        task="closest_object",
    ),
    "vtab_dmlab": _vtab("tfds:dmlab:2.0.1", 6, 22_735),
    "vtab_kitti_distance": _vtab("tfds:kitti:3.*.*", 4, 711, task="closest_vehicle"),
    "vtab_dsprites_position": _vtab(
        "tfds:dsprites:2.*.*",
        16,
        73_728,
        validation=("train", 589_824),
        test="train[663552:]",
        task="x_position",
    ),
    "vtab_dsprites_orientation": _vtab(
        "tfds:dsprites:2.*.*",
        16,
        73_728,
        validation=("train", 589_824),
        test="train[663552:]",
        task="orientation",
    ),
    # V: validation is from the first half of the published test part, test is the second half.
    "vtab_smallnorb_azimuth": _vtab(
        "tfds:smallnorb:2.*.*",
        18,
        12_150,
        validation=("test", 0),
        test="test[12150:]",
        task="azimuth",
    ),
    "vtab_smallnorb_elevation": _vtab(
        "tfds:smallnorb:2.*.*",
        9,
        12_150,
        validation=("test", 0),
        test="test[12150:]",
        task="elevation",
    ),
}
