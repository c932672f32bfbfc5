"""Source-free adaptation: a finished network, unlabelled target images, nothing else."""

from keras import ops

from keras_meduda import losses
from keras_meduda.methods.averaging import moving_average, teacher_of
from keras_meduda.methods.base import Method


class SourceFree(Method):
    """Adapts a finished network to a target without source images: L = L_KL + w · L_shares.

    The teacher, a moving average of the network, sees a target image as it is; the student learns
    to agree on the strong view: L_KL = mean over confident pixels of KL(p_T ‖ p_S). Alone, this may
    let a class vanish or grow. L_shares = Σ_c KL(s_c ‖ m_c) keeps the mean predicted share m_c of
    each class near the share s_c of the masks that the network has trained on; both are shares of
    all pixels, compared as Bernoulli distributions.

    Batch norm: the student's statistics become those of the target.

    Args:
        network: the finished network; it is adapted in place.
        overlapping: whether the task's classes overlap.
        shares: s_c, mean share of the image of each class, in the order of the task's classes.
            Default `None`: L_shares is left out.
        weight: w. Default 1.
        ema: decay of the teacher, 0 to 1. Default 0.99.
        confidence: pixels in which the teacher gives no class at least this probability do not
            count. Default 0.75.

    Raises:
        ValueError: shares or settings outside 0…1, or a negative weight.

    Source:
        The class-ratio prior is that of Bateson et al. 2022, "Source-free domain adaptation for
        image segmentation", section 3; the averaging teacher is Tarvainen and Valpola's, 2017.

    Example:
        >>> import keras_meduda as km
        >>> network = km.models.AERUNet((16, 16, 1), channels=1, filters=(4, 8))
        >>> method = km.methods.SourceFree(network, overlapping=True, shares=(0.1,))
    """

    def __init__(
        self, network, overlapping, shares=None, weight=1.0, ema=0.99, confidence=0.75, **kwargs
    ):
        super().__init__(network, **kwargs)
        bounded = [*(shares or ()), ema, confidence]
        if weight < 0 or not all(0 <= share <= 1 for share in bounded):
            raise ValueError(
                f"SourceFree: shares={shares}, weight={weight}, ema={ema}, confidence={confidence};"
                " expected a weight of 0 or more, and the others from 0 to 1."
            )
        self.overlapping, self.shares, self.weight = overlapping, shares, weight
        self.ema, self.confidence = ema, confidence
        self.teacher = teacher_of(network)

    def forward(self, batch, training):
        """Logits of the student on the strong view, and of the teacher on the image."""
        self.require(batch, "target/image", "target/strong")
        target = batch["target"]
        return {
            "target": self.network(target["strong"], training=training)["logits"],
            "teacher": self.teacher(target["image"], training=False)["logits"],
        }

    def losses(self, batch, outputs):
        """The divergence from the teacher, and that from the known shares."""
        taught, student = (
            losses.probabilities(outputs[name], self.overlapping) for name in ("teacher", "target")
        )
        sure = ops.maximum(taught, 1 - taught) if self.overlapping else taught
        best = ops.min(sure, axis=-1) if self.overlapping else ops.max(sure, axis=-1)
        certain = ops.cast(best >= self.confidence, "float32")
        divergence = losses.kl_divergence(
            outputs["teacher"], outputs["target"], self.overlapping, 1.0, certain
        )
        terms = {"kl": divergence}
        if self.shares is not None:
            axes = tuple(range(len(student.shape) - 1))
            pixels = self.global_sum(ops.cast(ops.prod(ops.shape(student)[:-1]), "float32"))
            found = self.global_sum(ops.sum(student, axes)) / pixels
            found = found if self.overlapping else found[1:]
            terms["shares"] = self.weight * losses.marginal_kl(
                ops.convert_to_tensor(self.shares, "float32"), found, overlapping=True
            )
        return terms

    def after_step(self):
        """Moves the teacher."""
        moving_average(self.teacher, self.network, self.ema)
