"""Masked consistency: what a teacher sees in the whole image, a student tells from half of it."""

import keras
from keras import ops

from keras_meduda import losses
from keras_meduda.methods.averaging import moving_average, teacher_of
from keras_meduda.methods.base import Method

UNDECIDED = 0.95  # probability up to which a decision has a say in the balance of classes


class MaskedConsistency(Method):
    """Adapts a network to unlabelled target images: L = L_source + λ(t) · L_masked.

    A teacher, the moving average of the network, segments the target image. The student sees the
    strong view of it with half of its blocks blanked and learns the same, so that it reads a class
    from what surrounds it: L_masked = mean_pixels m w_ŷ (−log p_ŷ), with ŷ the teacher's decision,
    p the student's probability of it, m = 1 where the teacher gives ŷ at least `confidence`.

    w balances the classes: that of the background is 1, that of a class is the teacher's mean
    −log p over undecided pixels of that class, divided by the same of the background, within ⅕…5.
    Where classes overlap, each is decided for itself, against its own background.

    Batch norm: the student sees source and target in one batch, so that its statistics are those
    of both domains together; the teacher's are their average over the steps.

    Args:
        network: the student, best trained on the source already; it is adapted in place. 2D or 3D.
        overlapping: whether the task's classes overlap.
        confidence: probability from which a decision of the teacher counts. Default 0.75.
        blocks: blocks along each axis; each is blanked, set to the image's mean, with probability
            ½. Default 8.
        weight: λ at the end of the ramp. Default 1.
        ramp: share of the steps over which λ rises. Default 0.2.
        ema: decay of the teacher's average. Default 0.99.
        guard: whether the masked term must not undo what the source teaches, see
            `guarded_gradient`. Default `False`.

    Raises:
        ValueError: a confidence, ramp or decay outside 0…1, a negative weight, or no blocks.

    Source:
        Hoyer et al., MIC: Masked image consistency (arXiv 2212.01322); the balance of classes
        after Tang et al., Class-balanced mean teacher (arXiv 2307.09973). What is undecided, and
        the mean over all pixels instead of a weight for each image, are our reading.

    Example:
        >>> import keras, keras_meduda as km
        >>> network = km.models.AERUNet((16, 16, 1), channels=1, filters=(4, 8))
        >>> method = km.methods.MaskedConsistency(network, overlapping=True)
        >>> method.compile(keras.optimizers.Adam(1e-4))
    """

    def __init__(
        self,
        network,
        overlapping,
        confidence=0.75,
        blocks=8,
        weight=1.0,
        ramp=0.2,
        ema=0.99,
        guard=False,
        **kwargs,
    ):
        super().__init__(network, **kwargs)
        shares = {"confidence": confidence, "ramp": ramp, "ema": ema}
        if not (all(0 <= share <= 1 for share in shares.values()) and weight >= 0 and blocks >= 1):
            raise ValueError(
                f"MaskedConsistency: {shares}, weight={weight}, blocks={blocks}; expected shares "
                "of 0 to 1, a weight of 0 or more, and 1 block or more."
            )
        self.overlapping, self.confidence, self.blocks = overlapping, confidence, blocks
        self.weight, self.ramp, self.ema = weight, ramp, ema
        self.guarded = ("masked",) if guard else ()
        self.teacher = teacher_of(network)
        self.block_seed = keras.random.SeedGenerator()

    def forward(self, batch, training):
        """Logits of the student on the source and on what is left, of the teacher on the target."""
        self.require(batch, "source/image", "source/mask", "target/image", "target/strong")
        source, target = batch["source"]["image"], batch["target"]
        shown = ops.concatenate([source, self.blanked(target["strong"])])
        logits, count = self.network(shown, training=training)["logits"], ops.shape(source)[0]
        teacher = self.teacher(target["image"], training=False)["logits"]
        return {"source": logits[:count], "target": logits[count:], "teacher": teacher}

    def losses(self, batch, outputs):
        """The source's segmentation loss and the weighted cross-entropy to the teacher."""
        mask, source = batch["source"]["mask"], outputs["source"]
        p = ops.stop_gradient(ops.exp(self._log_sides(outputs["teacher"])))
        decided, best = ops.one_hot(ops.argmax(p, axis=-1), p.shape[-1]), ops.max(p, axis=-1)
        counts = ops.cast(best >= self.confidence, "float32")[..., None]
        entropy = -decided * self._log_sides(outputs["target"])
        masked = ops.mean(ops.sum(counts * self._balance(p, decided) * entropy, axis=-1))
        return {
            "segmentation": losses.segmentation(mask, source, self.overlapping),
            "masked": self.weight * losses.ramp(self.progress, self.ramp) * masked,
        }

    def after_step(self):
        """Moves the teacher."""
        moving_average(self.teacher, self.network, self.ema)

    def blanked(self, image):
        """Images `(batch, *spatial, channels)`, about half of the blocks of each its mean."""
        axes = tuple(range(1, len(image.shape) - 1))
        grid = (ops.shape(image)[0], *[self.blocks] * len(axes), 1)
        seen = ops.cast(keras.random.uniform(grid, seed=self.block_seed) < 0.5, image.dtype)
        seen = losses.nearest(seen, ops.shape(image)[1:-1])
        return seen * image + (1 - seen) * ops.mean(image, axes, keepdims=True)

    def _log_sides(self, logits):
        """Log p of what each decision is between, `(…, decisions, sides)`, the background first."""
        z = ops.cast(logits, "float32")
        if self.overlapping:
            return -ops.softplus(ops.stack([z, -z], axis=-1))
        return ops.log_softmax(z, axis=-1)[..., None, :]

    def _balance(self, p, decided):
        """The weight of every side of every decision, over the global batch."""
        axes = tuple(range(len(p.shape) - 2))
        undecided = decided * ops.cast(p < UNDECIDED, "float32")
        count = self.global_sum(ops.sum(undecided, axes))
        hard = self.global_sum(ops.sum(-undecided * ops.log(ops.maximum(p, 1e-7)), axes))
        both = (count > 0) & (count[..., :1] > 0)
        mean = hard / ops.maximum(count, 1.0)
        ratio = ops.where(both, mean / ops.maximum(mean[..., :1], 1e-7), 1.0)
        return ops.clip(ratio, 0.2, 5.0)
