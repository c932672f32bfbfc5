"""KD-UDA: knowledge distillation by Kullback-Leibler divergence across a change of scanner."""

from keras import ops

from keras_meduda import losses
from keras_meduda.methods.averaging import moving_average, teacher_of
from keras_meduda.methods.base import Method


class KLDistillation(Method):
    """Adapts a network to unlabelled target images: L = L_source + λ(t) · L_KL.

    A teacher, at first a copy of the network (trained on the source), predicts the target image in
    the source's style; the student learns to agree on the image as it is, strongly augmented:
    L_KL = T² · mean_pixels Σ_c p_T · (log p_T − log p_S), p = softmax(z / T), or the Bernoulli form
    where classes overlap. λ rises as a sigmoid over the first `ramp` of the steps.

    `mode="strong"` shows the teacher the target image as it is. With equal inputs for both and a
    shared start the divergence is already zero: `mode="plain"` is there to show it.
    `mode="marginal"` compares the mean class distributions of source and target.

    Batch norm: the student sees source and target in one batch, so that its statistics are those
    of both domains together; the teacher's are those that its weights came with. With `guard` the
    domains pass apart, each normalised by its own statistics, and so each gradient is of its own
    domain.

    Args:
        network: the student, already trained on the source; it is adapted in place.
        overlapping: whether the task's classes overlap.
        mode: `"style"` (default), `"strong"`, `"marginal"` or `"plain"`.
        temperature: T. Default 2.
        weight: λ at the end of the ramp. Default 1.
        ramp: share of the steps over which λ rises. Default 0.2.
        ema: `None` keeps the teacher frozen; a decay such as 0.99 makes it the student's moving
            average. Default `None`.
        confidence: pixels in which the teacher gives no class at least this probability do not
            count. Default 0, all count.
        guard: whether the divergence must not undo what the source teaches, see
            `guarded_gradient`. Default `False`.

    Raises:
        ValueError: an unknown mode, a temperature that is not positive, a negative weight, or a
            share outside 0…1.

    Source:
        KD-UDA with AERUNet (thesis, Ashraf Ul Alam); the asymmetry of the inputs is our reading.

    Example:
        >>> import keras, keras_meduda as km
        >>> network = km.models.AERUNet((16, 16, 1), channels=1, filters=(4, 8))
        >>> method = km.methods.KLDistillation(network, overlapping=True)
        >>> method.compile(keras.optimizers.Adam(1e-4))
    """

    def __init__(
        self,
        network,
        overlapping,
        mode="style",
        temperature=2.0,
        weight=1.0,
        ramp=0.2,
        ema=None,
        confidence=0.0,
        guard=False,
        **kwargs,
    ):
        super().__init__(network, **kwargs)
        if mode not in ("style", "strong", "marginal", "plain"):
            raise ValueError(
                f"KLDistillation: mode={mode!r}; expected 'style', 'strong', 'marginal' or 'plain'."
            )
        shares = {"ramp": ramp, "ema": ema or 0.0, "confidence": confidence}
        fits = temperature > 0 and weight >= 0 and all(0 <= share <= 1 for share in shares.values())
        if not fits:
            raise ValueError(
                f"KLDistillation: temperature={temperature}, weight={weight}, {shares}; expected a "
                "temperature above 0, a weight of 0 or more, and shares of 0 to 1."
            )
        self.overlapping, self.mode, self.temperature = overlapping, mode, temperature
        self.weight, self.ramp, self.ema, self.confidence = weight, ramp, ema, confidence
        self.guarded = ("kl",) if guard else ()
        self.teacher = teacher_of(network)

    def forward(self, batch, training):
        """Logits of the student on both domains, and of the teacher on the target."""
        self.require(batch, "source/image", "source/mask", "target/image")
        source, target = batch["source"]["image"], batch["target"]
        if self.mode == "style" and "style" not in target:
            raise ValueError(
                f"KLDistillation: the target holds {sorted(target)}, no style; make it with "
                "add_styles(target, source, folder), or take mode='strong', which needs none."
            )
        seen = target["strong" if self.mode in ("style", "strong") else "image"]
        if self.guarded:
            pair = [self.network(x, training=training)["logits"] for x in (source, seen)]
        else:
            count = ops.shape(source)[0]
            both = self.network(ops.concatenate([source, seen]), training=training)["logits"]
            pair = both[:count], both[count:]
        outputs = dict(zip(("source", "target"), pair, strict=True))
        if self.mode != "marginal":
            shown = target["style"] if self.mode == "style" else target["image"]
            outputs["teacher"] = self.teacher(shown, training=False)["logits"]
        return outputs

    def losses(self, batch, outputs):
        """The source's segmentation loss and the target's weighted divergence."""
        terms = {
            "segmentation": losses.segmentation(
                batch["source"]["mask"], outputs["source"], self.overlapping
            )
        }
        if self.mode == "marginal":
            divergence = losses.marginal_kl(
                self._marginal(outputs["source"]),
                self._marginal(outputs["target"]),
                self.overlapping,
            )
        else:
            divergence = losses.kl_divergence(
                outputs["teacher"],
                outputs["target"],
                self.overlapping,
                self.temperature,
                self._certain(outputs["teacher"]),
            )
        terms["kl"] = self.weight * losses.ramp(self.progress, self.ramp) * divergence
        return terms

    def after_step(self):
        """Moves an averaging teacher."""
        if self.ema is not None:
            moving_average(self.teacher, self.network, self.ema)

    def _marginal(self, logits):
        """Mean class probabilities of the global batch, `(channels,)`."""
        p = losses.probabilities(logits, self.overlapping)
        axes = tuple(range(len(p.shape) - 1))
        count = ops.cast(ops.prod(ops.shape(p)[:-1]), "float32")
        return self.global_sum(ops.sum(p, axes)) / self.global_sum(count)

    def _certain(self, logits):
        """1 in pixels where every decision of the teacher is confident, else 0."""
        if self.confidence == 0.0:
            return None
        p = losses.probabilities(logits, self.overlapping)
        sure = ops.maximum(p, 1 - p) if self.overlapping else p
        best = ops.min(sure, axis=-1) if self.overlapping else ops.max(sure, axis=-1)
        return ops.cast(best >= self.confidence, "float32")
