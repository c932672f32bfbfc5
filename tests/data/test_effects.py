"""Changes of appearance compose in order, and one of a user's own is checked before training."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import tensorflow as tf

from keras_meduda.data.augment import Effect, Geometry, Intensity, Photometry, change

STILL = Geometry(flip=False, rotation=0, scale=0, shift=0)
STRONG = Photometry(probability=1.0)


@dataclass(frozen=True)
class Times(Effect):
    factor: float

    def sample(self, seed):
        return tf.constant(self.factor)

    def apply(self, image, draw):
        return image * draw


@dataclass(frozen=True)
class Plus(Times):
    def apply(self, image, draw):
        return image + draw


@dataclass(frozen=True)
class Noise(Effect):
    def sample(self, seed):
        return seed

    def apply(self, image, draw):
        return tf.random.stateless_normal(tf.shape(image), draw)


@dataclass(frozen=True)
class Painted(Noise):
    """Shows where each class lies."""

    reads_mask = True

    def apply(self, image, draw, mask):
        return image * 0.0 + tf.reduce_sum(mask, axis=-1, keepdims=True)


def first(batches):
    return next(batches.from_step(0).as_numpy_iterator())


def test_effects_are_made_in_order():
    image = tf.ones([4, 4, 1])
    assert change((Times(2.0), Plus(3.0)), image, (1, 2))[0, 0, 0] == 5
    assert change((Plus(3.0), Times(2.0)), image, (1, 2))[0, 0, 0] == 8
    np.testing.assert_array_equal(change((), image, (1, 2)), image)


def test_each_effect_draws_for_itself():
    """Equal effects at two positions would else be made twice with one draw."""
    seen = [change((Times(0.0),) * k + (Noise(),), tf.ones([64, 64, 1]), (1, 2)) for k in range(3)]
    for a, b in [(0, 1), (0, 2), (1, 2)]:
        assert abs(np.corrcoef(np.ravel(seen[a]), np.ravel(seen[b]))[0, 1]) < 0.1


def test_the_first_of_several_draws_as_a_single_one():
    image = tf.fill([8, 8, 3], 99.0)
    alone, ahead = (change(e, image, (1, 2)) for e in [(STRONG,), (STRONG, Times(1.0))])
    np.testing.assert_array_equal(alone, STRONG.apply(image, STRONG.sample((1, 2))))
    np.testing.assert_array_equal(alone, ahead)


def test_several_effects_reach_the_views_of_their_argument(batches):
    effects = (Times(0.0), Plus(255.0 / 5))
    for name in ("source_photometry", "photometry", "target_photometry"):
        batch = first(replace(batches, **{"photometry": None, name: effects}))
        half, view = name.split("_")[0], "strong" if name == "photometry" else "image"
        half = "target" if half == "photometry" else half
        np.testing.assert_allclose(batch[half][view], 2 / 5 - 1, atol=1e-6)


def test_8_bit_images_stay_in_their_range(batches):
    batch = first(replace(batches, photometry=(Times(9.0), Plus(-300.0))))
    assert batch["target"]["strong"].max() == -1  # clipped after each of them


def test_a_single_effect_is_told_from_others_as_before(batches):
    one = replace(batches, photometry=STRONG).settings["photometry"]
    assert one == str(STRONG)
    assert one == replace(batches, photometry=(STRONG,)).settings["photometry"]
    assert replace(batches, photometry=()).settings["photometry"] == "None"
    two = [replace(batches, photometry=p).settings for p in [(STRONG, Noise()), (Noise(), STRONG)]]
    assert two[0] != two[1]


def test_an_effect_of_the_source_sees_the_masks_of_its_images(batches):
    source = first(replace(batches, source_photometry=Painted()))["source"]
    shown = np.rint((source["image"][..., :1] + 1) * 127.5)
    np.testing.assert_allclose(shown, source["mask"].sum(axis=-1, keepdims=True), atol=1e-4)


class Nameless(Noise):
    __repr__ = object.__repr__


@dataclass(frozen=True)
class Stateful(Noise):
    def apply(self, image, draw):
        return image + tf.random.normal(tf.shape(image))


@dataclass(frozen=True)
class Eager(Noise):
    def apply(self, image, draw):
        return image.numpy()


@dataclass(frozen=True)
class Cropping(Noise):
    def apply(self, image, draw):
        return image[1:]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"photometry": "blur"}, "photometry='blur'; expected a data.augment.Effect"),
        ({"source_photometry": Nameless()}, "Nameless has no repr of its own"),
        ({"photometry": (STRONG, Stateful())}, "Stateful draws by RandomStandardNormal, which kee"),
        ({"photometry": Eager()}, "Eager is no graph code: .*numpy"),
        ({"photometry": Cropping()}, r"of shape \(31, 32, 3\) of a float32 .* \(32, 32, 3\)"),
        ({"photometry": Painted()}, r"photometry=Painted\(...\) needs labels, which a target"),
        ({"photometry": (STRONG, Intensity())}, "photometry=Intensity.* Degradation for 8-bit"),
    ],
)
def test_an_effect_that_cannot_train_is_refused_at_once(batches, settings, message):
    with pytest.raises(ValueError, match=f"^Batches: (?s:.*){message}"):
        replace(batches, **settings)
