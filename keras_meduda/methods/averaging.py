"""The averaging teacher that methods share: a copy of the network that follows it slowly."""

import keras


def teacher_of(network):
    """A copy of a network, weights and batch-norm statistics alike, that no optimiser moves.

    Example:
        >>> import keras_meduda as km
        >>> network = km.models.AERUNet((16, 16, 1), channels=1, filters=(4, 8))
        >>> teacher = teacher_of(network)
        >>> moving_average(teacher, network, decay=0.99)
        >>> len(teacher.trainable_weights)
        0
    """
    teacher = keras.models.clone_model(network)
    teacher.set_weights(network.get_weights())
    teacher.trainable = False
    return teacher


def moving_average(teacher, network, decay):
    """Moves every variable of a teacher towards its network: a ← decay · a + (1 − decay) · w.

    Batch-norm statistics are taken over with the rest; the counters of random layers are not.

    Source:
        Tarvainen and Valpola, Mean teachers are better role models (arXiv 1703.01780).
    """
    for a, w in zip(teacher.weights, network.weights, strict=True):
        a.assign(decay * a + (1.0 - decay) * w)
