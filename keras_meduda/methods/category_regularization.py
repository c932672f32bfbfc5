"""UDA_CLR: unsupervised domain adaptation with category-level regularisation."""

import keras
from keras import layers, ops

from keras_meduda import losses
from keras_meduda.methods.averaging import moving_average, teacher_of
from keras_meduda.methods.base import Method
from keras_meduda.methods.stochastic import stochastic
from keras_meduda.models import Discriminator
from keras_meduda.models.blocks import ResizeTo

# What the method is compared with: CategoryRegularization(network, overlapping, **BEAL).
BEAL = {"alignment": 0.0, "discriminative": 0.0, "consistency": 0.0}
POSAL = {**BEAL, "adversarial_entropy": 0.0}  # one discriminator, on the boundary
SOURCE_ONLY = {**POSAL, "adversarial_boundary": 0.0}
MEAN_TEACHER = {**SOURCE_ONLY, "mean_teacher": 1.0}


class CategoryRegularization(Method):
    """Adapts to unlabelled images by discriminators and by the prototypes of classes.

    L = L_seg + w₁ L_boundary + w₂ L_adv,entropy + w₃ L_adv,boundary
        + [t ≥ warm-up] (w₄ L_align + w₅ L_dis + w₆ L_acr)

    Source: cross-entropy of the mask and squared error of the boundary. Target: a discriminator is
    shown the entropy map, another the boundary, and neither should tell the domains apart. Then,
    for each class and each background, a prototype, the mean feature of its pixels: those of the
    two domains are aligned; source pixels are drawn to theirs and away from the opposite one; and
    where stochastic passes agree, the prediction for a recoloured target image follows that for the
    image as it is.

    Each weight that is 0 takes its term out, at no cost: `BEAL`, `POSAL`, `MEAN_TEACHER` and
    `SOURCE_ONLY` in this module are settings with which to call it. Within the warm-up the terms
    weigh nothing, but their views pass and move batch norm's statistics.

    Batch norm: each view of a step (source, target, recoloured target, in this order) passes on its
    own, as in the original, and moves the running statistics once; what is deployed is their
    average over the views. In one batch (`separate=False`) the network sees what sets the domains
    apart, such as another camera's colours, and the consistency term may teach it that such an
    image is background and nothing else. The stochastic passes use the running statistics and leave
    them as they are; they share one pass through the encoder and keep nothing for a gradient: of 8
    images at 192 × 192, eight take 0.39 GB and two 0.23 (on a processor).

    Args:
        network: a network of `km.models`, 2D or 3D, or any `keras.Model` of their contract;
            published with `DeepLabV3Plus`.
        overlapping: whether the task's classes overlap.
        boundary: w₁ of the boundary's squared error. Default 1.
        adversarial_entropy: w₂ of the discriminator of entropy maps. Default 0.01.
        adversarial_boundary: w₃ of the discriminator of boundaries. Default 0.01.
        alignment: w₄ of the distance between the domains' prototypes. Default 0.1.
        discriminative: w₅ of the source pixels' distances to their prototypes. Default 0.1.
        consistency: w₆ of pseudo-labels for recoloured images. Default 1.
        mean_teacher: weight of the squared difference to a moving average of the network (weights
            and batch norm's statistics), which sees the image with noise; it rises with `ramp`.
            Default 0.
        warm_up: share of the steps without the last three terms. Default 0.05, 25 of 500 epochs.
        ramp: share of the steps over which the threshold of pseudo-labels rises. Default 0.4.
        passes: T, stochastic passes. Default 8.
        certainty: deviation of the passes below which a pixel counts. Default 0.04.
        balanced: whether a pixel is a pseudo-label of the background only below 1 − τ, and does not
            count between that and the threshold τ. Default `False`, as published: it is background
            up to τ, which makes classes smaller where the network is undecided.
        separate: whether each view passes batch norm on its own. Default `True`, as published.

    Raises:
        ValueError: a network whose part `head` has no dropout, a negative weight, fewer than two
            passes, a share outside 0…1, or a deviation that is not positive.

    Source:
        UDA_CLR (arXiv 2207.03684), BEAL (arXiv 1906.11143), mean teacher (arXiv 1703.01780). The
        weights w₅ and w₆ are ours, no published ones are known.

    Example:
        >>> import keras, keras_meduda as km
        >>> network = km.models.DeepLabV3Plus((32, 32, 3), channels=2)
        >>> method = km.methods.CategoryRegularization(network, overlapping=True)
        >>> sgd = km.optimizers.SGDWithL2(2.5e-5, momentum=0.99, l2=5e-4)
        >>> method.compile(keras.optimizers.Adam(1e-3, beta_2=0.99), discriminator_optimizer=sgd)
    """

    def __init__(
        self,
        network,
        overlapping,
        boundary=1.0,
        adversarial_entropy=0.01,
        adversarial_boundary=0.01,
        alignment=0.1,
        discriminative=0.1,
        consistency=1.0,
        mean_teacher=0.0,
        warm_up=0.05,
        ramp=0.4,
        passes=8,
        certainty=0.04,
        balanced=False,
        separate=True,
        **kwargs,
    ):
        super().__init__(network, **kwargs)
        self.overlapping, self.warm_up, self.ramp = overlapping, warm_up, ramp
        self.boundary, self.alignment, self.discriminative = boundary, alignment, discriminative
        self.consistency, self.mean_teacher = consistency, mean_teacher
        self.passes, self.certainty = passes, certainty
        self.balanced, self.separate = balanced, separate
        weights = boundary, adversarial_entropy, adversarial_boundary, alignment
        weights += discriminative, consistency, mean_teacher
        if min(weights) < 0:
            raise ValueError(f"CategoryRegularization: weights {weights}; expected 0 or more.")
        if passes < 2:
            raise ValueError(f"CategoryRegularization: passes={passes}; expected 2 or more.")
        if not (0 <= warm_up <= 1 and 0 <= ramp <= 1 and certainty > 0):
            raise ValueError(
                f"CategoryRegularization: warm_up={warm_up}, ramp={ramp}, certainty={certainty}; "
                "expected two shares of 0 to 1 and a positive deviation."
            )

        adversarial = {"entropy": adversarial_entropy, "boundary": adversarial_boundary}
        self.adversarial = {name: weight for name, weight in adversarial.items() if weight}
        channels, features = (network.output[name].shape[-1] for name in ("logits", "features"))
        width, rank = {"entropy": channels, "boundary": 1}, len(network.input.shape) - 2
        self.discriminators = {
            name: Discriminator(width[name], rank, name=f"{name}_discriminator")
            for name in self.adversarial
        }
        self.boundary_head = None
        if (boundary or adversarial_boundary) and "boundary" not in network.output:
            self.boundary_head = layers.Dense(1, dtype="float32", name="boundary")
            self.boundary_head.build((None, features))
        if alignment or consistency:
            self.encode, self.stochastic_head = stochastic(network)
        if alignment or discriminative:
            rows = 2 * channels, features
            self.moving = {d: self._state(rows, f"{d}_prototypes") for d in ("source", "target")}
        if mean_teacher:
            self.noise_seed = keras.random.SeedGenerator()
            self.teacher = teacher_of(network)
        self.adapts = bool(self.adversarial or alignment or consistency or mean_teacher)
        self.resize_to = ResizeTo(align_corners=True, dtype="float32")

    @property
    def trained_variables(self):
        """The network's, and those of a boundary that the network itself does not give."""
        head = self.boundary_head.trainable_variables if self.boundary_head else []
        return [*self.network.trainable_variables, *head]

    def forward(self, batch, training):
        """What the network gives for every view, stochastic moments, prototypes, the teacher."""
        if self.boundary and "boundary" not in batch["source"]:
            raise ValueError(
                f"CategoryRegularization: the source holds {sorted(batch['source'])}, no boundary; "
                "make it with Batches(..., boundary=True)."
            )
        if self.adapts and "target" not in batch:
            raise ValueError("CategoryRegularization: the batches hold no target, only a source.")
        if self.consistency and "strong" not in batch["target"]:
            raise ValueError(
                f"CategoryRegularization: the target holds {sorted(batch['target'])}, no strong "
                "view; make it with Batches(..., photometry=Photometry())."
            )
        views = {"source": batch["source"]["image"]}
        if self.adapts:
            views["target"] = batch["target"]["image"]
        if self.consistency:
            views["strong"] = batch["target"]["strong"]
        outputs = self._each(views, training)
        if self.boundary_head:
            for name, view in views.items():
                logits = self.boundary_head(outputs[name]["features"])
                outputs[name]["boundary"] = self.resize_to([logits, view])
        if self.alignment or self.consistency:
            mean, deviation = self._stochastic_moments(views["target"])
            low = self._at_features(outputs["target"])
            outputs["deviation"] = self.resize_to([deviation, low])
        if self.alignment or self.discriminative:
            features = outputs["source"]["features"]
            mask = losses.nearest(batch["source"]["mask"], ops.shape(features)[1:-1])
            outputs["source_mask"], weights = mask, losses.class_weights(mask)
            outputs["prototypes"] = self._prototypes("source", features, weights, training)
        if self.alignment:
            weights = losses.rectified_weights(
                self._probabilities(low),
                self.resize_to([mean, low]),
                outputs["deviation"],
                certainty=self.certainty,
            )
            outputs["target_prototypes"] = self._prototypes(
                "target", outputs["target"]["features"], weights, training
            )
        if self.mean_teacher:
            noise = keras.random.normal(ops.shape(views["target"]), seed=self.noise_seed)
            outputs["teacher"] = self.teacher(views["target"] + 0.1 * noise, training=False)
        return outputs

    def _each(self, views, training):
        """The network's outputs for every view, by name."""
        if self.separate:
            return {name: self.network(view, training=training) for name, view in views.items()}
        together = self.network(ops.concatenate(list(views.values())), training=training)
        outputs, first = {}, 0
        for name, view in views.items():
            last = first + ops.shape(view)[0]
            outputs[name] = {key: x[first:last] for key, x in together.items()}
            first = last
        return outputs

    def losses(self, batch, outputs):
        """Every term with its weight; those of the regularisation once the warm-up is over."""
        source, target = outputs["source"], outputs.get("target")
        mask = batch["source"]["mask"]
        terms = {"segmentation": losses.cross_entropy(mask, source["logits"], self.overlapping)}
        if self.boundary:
            error = losses.boundary(batch["source"]["boundary"], source["boundary"])
            terms["boundary"] = self.boundary * error
        for name, weight in self.adversarial.items():
            judged = self.discriminators[name](self._shown(name, target))
            terms[f"adversarial_{name}"] = weight * losses.adversarial(judged, 1.0)
        if self.alignment:
            distance = losses.alignment(outputs["prototypes"], outputs["target_prototypes"])
            terms["alignment"] = self._warm(self.alignment) * distance
        if self.discriminative:
            distance = losses.discriminative(
                source["features"], outputs["source_mask"], outputs["prototypes"]
            )
            terms["discriminative"] = self._warm(self.discriminative) * distance
        if self.consistency:
            threshold = losses.rising_threshold(self.progress, self.ramp)
            p = self._probabilities(target["logits"])
            certain = ops.cast(outputs["deviation"] < self.certainty, "float32")
            certain = losses.nearest(certain, ops.shape(p)[1:-1])
            if self.balanced:
                certain *= ops.cast(ops.maximum(p, 1 - p) > threshold, "float32")
            entropy, count = losses.consistency_sums(
                losses.binary_logits(outputs["strong"]["logits"], self.overlapping),
                ops.cast(p > threshold, "float32"),
                certain,
            )
            mean = self.global_sum(entropy) / ops.maximum(self.global_sum(count), 1.0)
            terms["consistency"] = self._warm(self.consistency) * mean
        if self.mean_teacher:
            taught = self._probabilities(outputs["teacher"]["logits"])
            error = ops.mean(ops.square(self._probabilities(target["logits"]) - taught))
            weight = self.mean_teacher * losses.ramp(self.progress, self.ramp)
            terms["mean_teacher"] = weight * error
        return terms

    def discriminator_losses(self, batch, outputs):
        """Each discriminator's cross-entropies: 1 for the source, 0 for the target."""
        return {
            f"discriminator_{name}": losses.adversarial(
                discriminator(self._shown(name, outputs["source"])), 1.0
            )
            + losses.adversarial(discriminator(self._shown(name, outputs["target"])), 0.0)
            for name, discriminator in self.discriminators.items()
        }

    def after_step(self):
        """Moves the mean teacher, fast at first: a = min(1 − 1 / (step + 1), 0.99)."""
        if self.mean_teacher:
            step = ops.cast(self.step, "float32")
            moving_average(self.teacher, self.network, ops.minimum(1 - 1 / (step + 1), 0.99))

    def _warm(self, weight):
        """A weight that is 0 during the warm-up."""
        return weight * ops.cast(self.progress >= self.warm_up, "float32")

    def _shown(self, name, outputs):
        """What a discriminator sees of a view."""
        if name == "boundary":
            return ops.sigmoid(outputs["boundary"])
        return losses.entropy_map(self._probabilities(outputs["logits"]))

    def _at_features(self, outputs):
        """Logits at the resolution of the features."""
        if "logits_low" in outputs:
            return outputs["logits_low"]
        return self.resize_to([outputs["logits"], outputs["features"]])

    def _probabilities(self, logits):
        return losses.probabilities(logits, self.overlapping)

    def _stochastic_moments(self, images):
        """P̄ and S of the passes, at the resolution of the images."""
        encoded = self.encode(images, training=False)
        passes = [self.stochastic_head(encoded) for _ in range(self.passes)]
        return losses.stochastic_moments(
            ops.stack([losses.binary_logits(logits, self.overlapping) for logits in passes])
        )

    def _prototypes(self, domain, features, weights, training):
        """The moving prototypes of a domain, those of the global batch taken in."""
        sums, counts = losses.prototype_sums(features, weights)
        batch = losses.prototypes(self.global_sum(sums), self.global_sum(counts))
        moving = losses.moving_prototypes(self.moving[domain], batch)
        if training:
            self.moving[domain].assign(ops.stop_gradient(moving))
        return moving

    def _state(self, shape, name):
        return self.add_weight(
            shape=shape,
            dtype="float32",
            initializer="zeros",
            trainable=False,
            name=name,
            aggregation="only_first_replica",
        )
