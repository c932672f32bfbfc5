"""MedDistill: a small network learns from the soft masks and embeddings of a foundation model."""

from keras import layers, ops

from keras_meduda import losses
from keras_meduda.methods.averaging import moving_average, teacher_of
from keras_meduda.methods.base import Method
from keras_meduda.models.blocks import ResizeTo

TERMS = ("mask_bce", "mask_mse", "feature")
WEIGHTINGS = ("original", "entropy", "kendall", "dwa")
PERIODS = 50  # of a training, between which "dwa" compares the terms; the original has epochs


class FoundationDistillation(Method):
    """Trains a student without masks: L = w₁ BCE(z, M) + w₂ MSE(σ(z), M) + w₃ MSE(f, F) + R.

    M are a teacher's soft masks of the target image, one a class, F its embedding, z and f are the
    student's logits and features; f goes through a learnable pointwise projection to F's width and
    linearly to its grid, and both are normalised per pixel. Where classes exclude each other
    softmax takes the place of σ, and what no mask claims is background. The weights balance mask
    and feature level (ULWR):

    * `"original"`: from the teacher's variance σ², see `losses.ulwr_weights`, R their spread. R has
      no gradient. σ² is the variance of the mask's values, largest for a confident mask that fills
      half the image: no uncertainty in the usual sense.
    * `"entropy"`: the same, σ² replaced by the mean binary entropy of M within the boxes, 0…1.
    * `"kendall"`: w = exp(−s) with learnable s, 0 at first, and R = Σ s.
    * `"dwa"`: by how fast each term fell from one fiftieth of the training to the next, R = 0.
    * three numbers: fixed weights, scaled to the sum 1, R = 0.

    Without an embedding the feature term is dropped and the weights are those of two terms. A
    source in the batch, the few images with a mask, adds the supervised loss; then the student sees
    both halves in one batch, so that its batch-norm statistics are those of both.

    Where the batch has the weights of pixels, `teacher_weight`, they count in every mask term.

    Heads of a deeply supervised network (`aux_…`) are brought to the image's grid; the mask terms
    and the supervised loss are averages over all heads.

    Args:
        network: the student, 2D or 3D; it has a logit for each of the teacher's masks, and one for
            the background ahead of them where classes exclude each other.
        teacher_channels: width of the embedding. Default `None`: there is none.
        ulwr: the weights, as above. Default `"original"`.
        feature_loss: `"normalised"` (default), or `"mse"` of the vectors as they are.
        refine: α of co-learning: M becomes (1 − α t) M + α t σ(z̄), z̄ the logits of the student's
            moving average and t the share of the training that is done; only in images whose two
            masks agree, Dice of M > ½ and σ(z̄) > ½ above ½. Default 0, none of it.
        ema: decay of that average. Default 0.99.
        dice: weight of one more term, 1 − Dice of σ(z) and M, which small tumours need where there
            are few steps: in BCE and MSE background outvotes them. Default 0, as published;
            `meduda distil` has 1.
        overlapping: whether the task's classes overlap, as those of one class do. Default `True`.

    Raises:
        ValueError: an unknown form of weights or of the feature loss, a share outside 0…1, or a
            negative weight; in the first step, a batch without what the teacher said, or a network
            with another number of logits than the mask has channels.

    Source:
        MedDistill (BUCT-IUSRC), with the feature term as we define it: there, the logits are
        compared with a teacher's map whose axes were mixed up.

    Example:
        >>> import keras, keras_meduda as km
        >>> network = km.models.UNetPlusPlus((16, 16, 3), channels=1, filters=(4, 8))
        >>> method = km.methods.FoundationDistillation(network, teacher_channels=256)
        >>> method.compile(keras.optimizers.Adam(1e-4))
    """

    def __init__(
        self,
        network,
        teacher_channels=None,
        ulwr="original",
        feature_loss="normalised",
        refine=0.0,
        ema=0.99,
        dice=0.0,
        overlapping=True,
        **kwargs,
    ):
        super().__init__(network, **kwargs)
        self.terms = TERMS if teacher_channels else TERMS[:2]
        if isinstance(ulwr, str):
            known = ulwr in WEIGHTINGS
        else:
            known = len(ulwr) == 3 and min(ulwr) >= 0 and sum(ulwr[: len(self.terms)]) > 0
        if not known:
            raise ValueError(
                f"FoundationDistillation: ulwr={ulwr!r}; expected one of {WEIGHTINGS}, or three "
                "fixed weights that are not negative and not all 0."
            )
        if feature_loss not in ("normalised", "mse"):
            raise ValueError(
                f"FoundationDistillation: feature_loss={feature_loss!r}; expected 'normalised' or "
                "'mse'."
            )
        if not (0 <= refine <= 1 and 0 <= ema <= 1 and dice >= 0):
            raise ValueError(
                f"FoundationDistillation: refine={refine}, ema={ema}, dice={dice}; expected two "
                "shares of 0 to 1 and a weight of 0 or more."
            )
        self.ulwr, self.feature_loss, self.refine, self.ema = ulwr, feature_loss, refine, ema
        self.dice, self.overlapping, self.resize = dice, overlapping, ResizeTo(dtype="float32")
        state = {"shape": (len(self.terms),), "initializer": "zeros", "dtype": "float32"}
        if teacher_channels:
            self.projection = layers.Dense(teacher_channels, name="projection")
            self.projection.build((None, network.output["features"].shape[-1]))
        if ulwr == "kendall":
            self.log_variances = self.add_weight(name="log_variances", **state)
        if ulwr == "dwa":
            state |= {"trainable": False, "aggregation": "mean"}
            self.running = self.add_weight(name="running", **state)
            self.last = self.add_weight(name="last", **state)
            self.before = self.add_weight(name="before", **state)
        if refine:
            self.average = teacher_of(network)

    @property
    def trained_variables(self):
        """The network's, the projection's and the learnable weights."""
        variables = list(self.network.trainable_variables)
        if "feature" in self.terms:
            variables += self.projection.trainable_variables
        if self.ulwr == "kendall":
            variables.append(self.log_variances)
        return variables

    def forward(self, batch, training):
        """Distances to the teacher, `(batch, terms)`, and the heads' logits of labelled images."""
        needs = ["image", "teacher", "teacher_variance"]
        needs += ["teacher_entropy"] if self.ulwr == "entropy" else []
        needs += ["teacher_features"] if "feature" in self.terms else []
        self.require(batch, *(f"target/{name}" for name in needs))
        target, image = batch["target"], batch["target"]["image"]
        count = ops.shape(image)[0]
        if "source" in batch:
            image = ops.concatenate([image, batch["source"]["image"]])
        student = self.network(image, training=training)
        mask = self._refined(target)
        heads = [student["logits"], *(student[k] for k in student if k.startswith("aux_"))]
        heads = [self.resize([head, image]) for head in heads]
        weight = {}  # of pixels, where the teacher is in doubt or its boxes are
        if "teacher_weight" in target:
            weight["weight"] = ops.cast(target["teacher_weight"], "float32")
        distances = [
            losses.mask_distances(mask, head[:count], self.overlapping, **weight) for head in heads
        ]
        distances = [sum(of_heads) / len(heads) for of_heads in zip(*distances, strict=True)]
        if "feature" in self.terms:
            teacher = target["teacher_features"]
            features = self.projection(self.resize([student["features"][:count], teacher]))
            normalised = self.feature_loss == "normalised"
            distances.append(losses.feature_distance(features, teacher, normalised))
        distances = ops.stack(distances, axis=-1)
        if training and self.ulwr == "dwa":
            self._remember(ops.mean(distances, axis=0))
        outputs = {"distances": distances, "source": [head[count:] for head in heads]}
        if self.dice:
            of_heads = [
                losses.dice_loss(mask, head[:count], self.overlapping, **weight) for head in heads
            ]
            outputs["dice"] = sum(of_heads) / len(heads)
        return outputs

    def losses(self, batch, outputs):
        """The weighted terms of the distillation, and of the labelled images if there are any."""
        weights = self._weights(batch["target"])
        weighted = ops.mean(weights * outputs["distances"], axis=0)
        terms = {name: weighted[i] for i, name in enumerate(self.terms)}
        if self.ulwr in ("original", "entropy"):
            terms["regularisation"] = ops.mean(losses.weight_spread(weights))
        if self.ulwr == "kendall":
            terms["regularisation"] = ops.sum(self.log_variances)
        if self.dice:
            terms["mask_dice"] = self.dice * outputs["dice"]
        if "source" in batch:
            mask, heads = batch["source"]["mask"], outputs["source"]
            of_heads = [losses.segmentation(mask, head, self.overlapping) for head in heads]
            terms["segmentation"] = sum(of_heads) / len(heads)
        return terms

    def monitored(self, batch, outputs):
        """The weights, and σ² of the teacher, as means over the batch."""
        weights = ops.mean(self._weights(batch["target"]), axis=0)
        values = {f"weight_{name}": weights[i] for i, name in enumerate(self.terms)}
        return {**values, "variance": ops.mean(batch["target"]["teacher_variance"])}

    def after_step(self):
        """Moves the average of co-learning."""
        if self.refine:
            moving_average(self.average, self.network, self.ema)

    def _weights(self, target):
        """Weights of the terms: `(batch, terms)`, or `(1, terms)` where all images share them."""
        if self.ulwr == "original":
            return losses.ulwr_weights(target["teacher_variance"], len(self.terms))
        if self.ulwr == "entropy":
            return losses.ulwr_weights(target["teacher_entropy"], len(self.terms))
        if self.ulwr == "kendall":
            return ops.exp(-self.log_variances)[None]
        if self.ulwr == "dwa":
            return losses.dynamic_weights(self.last, self.before)[None]
        fixed = ops.convert_to_tensor([self.ulwr[: len(self.terms)]], "float32")
        return fixed / ops.sum(fixed)

    def _refined(self, target):
        """The teacher's mask, on the way to what the student's average makes of the image."""
        mask = ops.cast(target["teacher"], "float32")
        logits = self.network.output["logits"].shape[-1]
        expected = logits if self.overlapping else logits - 1
        if mask.shape[-1] not in (None, expected):  # would be broadcast
            raise ValueError(
                f"FoundationDistillation: '{self.network.name}' gives {logits} logits a pixel and "
                f"the teacher {mask.shape[-1]} masks; expected {expected}, one for each class."
            )
        if not self.overlapping:
            mask = losses.with_background(mask)
        if not self.refine:
            return mask
        own = self.average(target["image"], training=False)["logits"]
        own = losses.probabilities(own, self.overlapping)
        share = self.refine * self.progress * self._agree(mask, own)
        return (1.0 - share) * mask + share * own

    def _agree(self, mask, own):
        """1 where the teacher's mask and the student's own have a Dice above ½, else 0, per image.

        Two empty masks agree.
        """
        first = 0 if self.overlapping else 1  # the background is no class to agree on
        a, b = (ops.cast(m[..., first:] > 0.5, "float32") for m in (mask, own))
        axes = tuple(range(1, len(a.shape)))
        both, either = (ops.sum(m, axis=axes, keepdims=True) for m in (a * b, a + b))
        return ops.stop_gradient(ops.cast((2.0 * both > 0.5 * either) | (either == 0), "float32"))

    def _remember(self, distances):
        """Sums the terms up; at the end of a period its means become the last ones."""
        if self.total_steps is None:
            raise ValueError(
                "ulwr='dwa' compares periods of a training: train with km.fit, or set "
                "method.total_steps before method.fit."
            )
        period = max(1, self.total_steps // PERIODS)
        running = self.running + distances
        ends = ops.equal((self.step + 1) % period, 0)
        self.before.assign(ops.where(ends, self.last, self.before))
        self.last.assign(ops.where(ends, running / period, self.last))
        self.running.assign(ops.where(ends, ops.zeros_like(running), running))
