"""What every change of appearance is made of, and the order in which several are made."""

import tensorflow as tf


class Effect:
    """A random change of how an image looks; several compose, and one of your own is a subclass.

    A subclass defines `sample(seed) -> draw`, any structure of tensors, and
    `apply(image, draw) -> image` of a float32 image `(*size, C)`. Both are graph code without a
    state: equal seeds `(2,)` give equal changes. `Batches` clips 8-bit images to 0…255 afterwards.
    Its `repr` names the settings, as that of a dataclass does: a run keeps it.

    Attributes:
        zscored: `True` for z-scored images alone, `False` for 8-bit ones alone, `None` for either.
            Default `None`.
        pictures_only: whether volumes are refused. Default `False`.
        reads_mask: whether `apply(image, draw, mask)` also takes the classes' masks
            `(*size, classes)`; only source images have one. Default `False`.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Inverted(Effect):
        ...     probability: float = 0.5
        ...     zscored = True
        ...     def sample(self, seed):
        ...         return tf.random.stateless_uniform([], seed) < self.probability
        ...     def apply(self, image, draw):
        ...         return tf.where(draw, -image, image)
        >>> change((Inverted(1.0), Inverted(1.0)), tf.ones([4, 4, 1]), (1, 2))[0, 0, 0].numpy()
        np.float32(1.0)
    """

    zscored = None
    pictures_only = False
    reads_mask = False

    def sample(self, seed):
        """One draw of a seed `(2,)`."""
        raise NotImplementedError

    def apply(self, image, draw):
        """An image with one draw applied."""
        raise NotImplementedError


def change(effects, image, seed, mask=None, eight_bit=False):
    """An image with several effects made in order, each with a draw of its own.

    Args:
        effects: a sequence of `Effect`.
        image: float32 `(*size, C)`.
        seed: `(2,)`; the first effect draws from it, each further one from it and its position.
        mask: the classes' masks `(*size, classes)`, for effects that read them.
        eight_bit: whether the image is kept in 0…255.
    """
    for position, effect in enumerate(effects):
        # far from the small numbers by which effects fold the seed themselves
        own = tf.random.fold_in(seed, 2**16 + position) if position else seed
        seen = (mask,) if effect.reads_mask else ()
        image = effect.apply(image, effect.sample(own), *seen)
        if eight_bit:
            image = tf.clip_by_value(image, 0.0, 255.0)
    return image


def check_effect(effect, shape, classes):
    """Refuses an effect that is no graph code, keeps a state or changes an image's shape.

    Args:
        effect: an `Effect`.
        shape: of the images, `(*size, channels)`.
        classes: number of classes of their masks.

    Raises:
        ValueError: what is wrong with it.
    """
    name = type(effect).__name__
    if type(effect).__repr__ is object.__repr__:
        raise ValueError(
            f"{name} has no repr of its own, by which a run would know its settings again; make it "
            "a dataclass."
        )
    image, mask = tf.TensorSpec(shape), tf.TensorSpec((*shape[:-1], classes))
    seed = tf.TensorSpec([2], "int64")
    try:
        traced = tf.function(lambda *args: change([effect], *args)).get_concrete_function(
            image, seed, mask
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ValueError(f"{name} is no graph code: {reason}") from error
    found = traced.structured_outputs
    if tuple(found.shape) != tuple(shape) or found.dtype != tf.float32:
        raise ValueError(
            f"{name} makes {found.dtype.name} of shape {found.shape} of a float32 image of shape "
            f"{tuple(shape)}; expected both as they were."
        )
    functions = traced.graph.as_graph_def().library.function
    made = [op.op for f in functions for op in f.node_def]
    made += [op.type for op in traced.graph.get_operations()]
    if drawn := {op for op in made if "Random" in op and not op.startswith("Stateless")}:
        raise ValueError(
            f"{name} draws by {', '.join(sorted(drawn))}, which keeps a state: a resumed run would "
            "see other images. Draw with tf.random.stateless_uniform and the seed of sample."
        )
