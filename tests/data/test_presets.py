import ml_collections
import pytest

from jaxpt.configs.pretrain import defaults, digits, fashion_mnist
from jaxpt.data import augment, presets
from jaxpt.errors import InputError


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_is_sound_and_leaves_nothing_of_what_was_there(name):
    config = fashion_mnist.get_config()
    config.augment.crop_size, config.local_augment.crop_size, config.augment.noise = 20, 9, 0.7
    views = config.views, config.local_views
    presets.apply(config, name)
    preset = presets.PRESETS[name]
    for part in "augment", "key_augment", "local_augment":
        augment.check(config[part])
        assert set(config[part]) == set(augment.Settings._fields)
    assert augment.Settings(**config.augment) == preset.views._replace(crop_size=20)
    assert augment.Settings(**config.key_augment) == preset.views
    assert augment.Settings(**config.local_augment) == preset.local._replace(crop_size=9)
    assert (config.views, config.local_views) == views


def test_as_a_word_of_a_variant_beside_a_method():
    config = digits.get_config("byol,augment=byol,smoke")
    assert (config.method, config.views, config.duration) == ("byol", 2, "4 steps")
    assert tuple(config.augment.blur) == (1.0, 0.1)
    assert digits.get_config("augment=byol").method == "look"
    with pytest.raises(InputError, match="preset must be one of simclr.*got 'byl'"):
        digits.get_config("augment=byl")


def test_asymmetric_presets_treat_keys_as_the_second_view():
    for name in "byol", "dino":
        views = presets.PRESETS[name].views
        assert augment.of_view(views.blur, 0) == 1.0 and augment.of_view(views.solarise, 0) == 0.0
        for view in 1, 1000:
            assert augment.of_view(views.blur, view) == 0.1
            assert augment.of_view(views.solarise, view) == 0.2


def test_the_defaults_do_what_the_config_says_and_nothing_else():
    fields = defaults.get_config().augment
    assert augment.Settings(**fields) == augment.Settings(shift=1, contrast=0.2, noise=0.05)
    assert augment.Settings(**ml_collections.ConfigDict({})) == augment.Settings()
