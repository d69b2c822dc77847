"""Small sets for tfds: really prepared, or metadata of the wanted sizes with fake images."""

import contextlib
import io

import numpy as np
from PIL import Image


def make_builder(name, splits, shape, frame):
    """A builder class of that name; ``splits`` maps a split to images and labels.

    ``frame`` makes of an image what tfds stores: an array, or an image file's path.
    """
    import tensorflow_datasets as tfds

    def info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            supervised_keys=("image", "label"),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=shape),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
        )

    def generate(self, split):
        for i, (image, label) in enumerate(zip(*splits[split])):
            yield i, {"image": frame(image), "label": int(label)}

    return type(
        name,
        (tfds.core.GeneratorBasedBuilder,),
        {
            "VERSION": tfds.core.Version("1.0.0"),
            "_info": info,
            "_split_generators": lambda self, _: {
                split: self._generate_examples(split) for split in splits
            },
            "_generate_examples": generate,
            "__module__": __name__,
        },
    )


def write_metadata(data_dir, source, sizes):
    """Leaves ``dataset_info.json`` of a set with splits of these sizes; returns its folder.

    tfds then takes the set for prepared, and counts slices itself.
    """
    import tensorflow_datasets as tfds

    builder = tfds.builder(source, data_dir=data_dir)
    template = tfds.core.ShardedFileTemplate(
        data_dir=builder.data_path, dataset_name=builder.name, filetype_suffix="tfrecord"
    )
    builder.info.set_splits(
        tfds.core.splits.SplitDict(
            [
                tfds.core.SplitInfo(
                    name=name, shard_lengths=[n], num_bytes=0, filename_template=template
                )
                for name, n in sizes.items()
            ]
        )
    )
    builder.data_path.mkdir(parents=True)
    builder.info.write_to_directory(builder.data_dir)
    return builder.data_dir


@contextlib.contextmanager
def fake_examples(data_dir, changes=None):
    """Within, ``as_dataset`` gives as many fake examples as the metadata says of the split.

    Args:
      data_dir: where ``write_metadata`` wrote.
      changes: from (split, position) to features that replace the random ones.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds
    from tensorflow_datasets.testing import mocking

    def as_dataset(self, split, decoders=None, read_config=None, **_):
        features = decoders.extract_features(self.info.features)
        n = self.info.splits[str(split)].num_examples
        random = mocking.RandomFakeGenerator(features, n, constant_dynamic_shape=True)
        examples = []
        for i, example in enumerate(random):
            changed = changes(str(split), i) if changes else {}
            examples.append(example | {name: changed[name] for name in changed.keys() & example})
        specs = features.get_serialized_info()
        flat = tf.data.Dataset.from_generator(
            lambda: (features.encode_example(example) for example in examples),
            output_types=tf.nest.map_structure(lambda t: t.dtype, specs),
            output_shapes=tf.nest.map_structure(lambda t: t.shape, specs),
        )
        return flat.map(lambda e: features.decode_example(e, decoders=decoders.decoders))

    with tfds.testing.mock_data(as_dataset_fn=as_dataset, data_dir=str(data_dir)):
        yield


def png(grey, height=20, width=30, channels=3):
    """An encoded image of one grey."""
    pixels = np.full((height, width, channels), grey, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(file, "png")
    return file.getvalue()
