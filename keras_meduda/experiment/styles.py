"""Style twins by histograms, or by bands where the order of grey levels has changed."""

import hashlib
from dataclasses import replace

import numpy as np

from keras_meduda.data.bands import CHANGED, KEPT
from keras_meduda.data.cache import stored
from keras_meduda.data.pipeline import add_styles, order_ratio
from keras_meduda.data.subset import evenly
from keras_meduda.evaluation.confidence import soft_dice
from keras_meduda.evaluation.guard import MOST, inputs_of, probabilities
from keras_meduda.evaluation.teacher_view import choose_view

UNLIKE = 2.0  # times the share of the image that a class takes in the other domain
DOUBT = 0.05  # confidence that twins may lack, see benchmarks/shifts_notes.md


class Styles:
    """Style twins of one experiment; what is decided of its two domains is decided once.

    Args:
        folder: where prepared arrays are kept.
        seed: of the draw of references.
    """

    def __init__(self, folder, seed):
        self.folder, self.seed = folder, seed
        self.facts = {}  # for the report, `{term: text}`
        self.by_bands = self.fits = None  # not decided yet
        self.labelled = None  # the target with the network's own masks, where twins follow them

    def add(self, prepared, references, twins, by_bands=None):
        """`add_styles`, by bands where R says so, and by class where `of_source` has decided so.

        Args:
            prepared: the images to restyle.
            references: the images whose grey levels they take; one of the two has labels.
            twins: of each image.
            by_bands: as `Stage` has it.
        """
        if by_bands is None:
            if self.by_bands is None:
                self.by_bands = self._order_changed(prepared, references)
            by_bands = self.by_bands
        by_class = bool(self.labelled and prepared.labels and not by_bands)
        references = self.labelled if by_class else references
        return add_styles(prepared, references, self.folder, twins, self.seed, by_bands, by_class)

    def of_source(self, run, source, target, twins, by_bands=None):
        """The source with twins in the target's style that do not mislead, else without any.

        A histogram carries the proportions of the classes with it: where the target has three times
        as many nuclei, background turns into nuclei, and the reverse. So where a class takes more
        than twice the share of the image that it has in the other domain, by the network's masks of
        the target, or where the network doubts the twins more than the target itself, their mean
        soft Dice confidence lower by more than 0.05, twins are made again with each class in its
        own proportion. If the network doubts those, the source stays as it is. Twins of which it is
        surer only fall short of the target. Twins by bands train in any case. No label of the
        target is read.

        Args:
            run: trained on the source.
            source: its images and labels.
            target: images.
            twins: of each source image.
            by_bands: as `Stage` has it.
        """
        if self.fits is None:
            self.fits = self._represented(run, source, target, by_bands)
        return self.add(source, target, twins, by_bands) if self.fits else source

    def of_target(self, run, target, source, groups, twins, by_bands=None):
        """The target with twins in the source's style, if a teacher should see those, else without.

        A teacher should see that view in which it agrees most with itself, see `choose_view`. No
        label of the target is read.

        Args:
            run: the teacher, trained on the source.
            target: images.
            source: images and labels.
            groups: patient of each target image.
            twins: of each target image.
            by_bands: as `Stage` has it.
        """
        styled = self.add(target, source, twins, by_bands)
        some = evenly(len(target.images), MOST[len(run.preprocessing.size)])
        views = {
            "as it is": inputs_of(target.only(some)),
            "in the source's style": inputs_of(target, _first(styled.only(some))),
        }
        choice = choose_view(run, views, np.asarray(groups)[some])
        score = dict(zip(choice.scores["view"], choice.scores["score"], strict=True))
        figures = ", ".join(f"{value:.3f} {view}" for view, value in score.items())
        said = f"the network agrees with itself by {figures}: it sees the target {choice.view}."
        self.facts["Teacher's view"] = said
        print(f"Teacher's view: {said}")
        return target if choice.view == "as it is" else styled

    def each_way(self, run, source, target):
        """The source with a twin for each way to make the target's style, to judge networks by.

        Grey levels as the adaptation takes them and, where those are of whole histograms, class by
        class with the network's own masks of the target: a network that was misled by its twins is
        better at them, and worse at the others. No label of the target is read.

        Args:
            run: trained on the source.
            source: its images and labels.
            target: images.
        """
        twins = self.add(source, target, 1)
        if self.by_bands or self.labelled:
            return twins
        references = self_labelled(run, target, self.folder)
        others = add_styles(source, references, self.folder, 1, self.seed, by_class=True)
        both = (a + b for a, b in zip(twins.styles, others.styles, strict=True))
        return replace(twins, styles=tuple(both))

    def _represented(self, run, source, target, by_bands):
        """Whether there are twins that do not mislead; says so.

        Twins by bands do train: where the order of grey levels has changed, a network is surest of
        what it finds wrongly.
        """
        twins = self.add(source, target, 1, by_bands)
        if self.by_bands if by_bands is None else by_bands:
            return True
        most = MOST[len(run.preprocessing.size)]
        sure, there = (
            _confidence(run, half, files, most)
            for half, files in ((twins, _first(twins)), (target, target.images))
        )
        said = (
            f"the network is {sure:.2f} sure of source images in the target's style and "
            f"{there:.2f} of the target's own: "
        )
        fits, labelled = there - sure <= DOUBT, self_labelled(run, target, self.folder)
        unlike = _unlike(source, labelled)
        if not fits or unlike > UNLIKE:
            self.labelled = labelled
            twins = self.add(source, target, 1, by_bands)
            sure = _confidence(run, twins, _first(twins), most)
            fits = there - sure <= DOUBT
            self.labelled = labelled if fits else None
            said += (
                f"such twins mislead; a class takes up to {unlike:.1f} times its share of the "
                f"image in the other domain. With each class in its own proportion {sure:.2f}: "
            )
        said += "such twins train." if fits else "such twins mislead and are left out."
        self.facts["Styles"] = said
        print(f"Styles: {said}")
        return fits

    def _order_changed(self, prepared, references):
        source, target = (prepared, references) if prepared.labels else (references, prepared)
        ratio, grey = order_ratio(source, target), _is_grey(source) and _is_grey(target)
        if ratio < KEPT:
            said = "the order of grey levels is kept: styles match histograms"
        elif ratio <= CHANGED:
            said = "the order of grey levels may have changed a little: styles match histograms"
        elif grey:
            said = "the order of grey levels has changed: styles match bands, not histograms"
        else:
            said = (
                "the order of grey levels has changed, and colours can be matched by their "
                "histograms alone: styles may mislead, look at the twins in the folder prepared"
            )
        self.facts["Grey levels"] = f"R = {ratio:.2f}: {said}."
        print(self.facts["Grey levels"])
        return ratio > CHANGED and grey


def self_labelled(run, prepared, folder):
    """Prepared images with a network's own masks as their labels, to tell their classes apart.

    Args:
        run: the network, on the same grid.
        prepared: images.
        folder: where prepared arrays are kept.
    """
    files = []
    for p in probabilities(run, inputs_of(prepared)):
        labels = run.task.labels(run.task.masks(p)).tobytes()
        of = ["a network's own", hashlib.sha256(labels).hexdigest()]
        files.append(
            stored(folder, "label", of, lambda file, labels=labels: file.write_bytes(labels))
        )
    return replace(prepared, labels=tuple(files))


def _first(twins):
    """The first twin of each image."""
    return [files[0] for files in twins.styles]


def _confidence(run, prepared, files, most):
    """Mean soft Dice confidence of a run on at most so many prepared images."""
    found, looked_at = [], [files[i] for i in evenly(len(files), most)]
    for p in probabilities(run, inputs_of(prepared, looked_at)):
        masks = run.task.masks(p)
        found.append(soft_dice(p[..., -masks.shape[-1] :], masks).mean())
    return float(np.mean(found))


def _unlike(source, target):
    """How many times the share of the image that a class has in the other domain, at the worst."""
    first, other = (np.maximum(_mean_shares(half), 1e-6) for half in (source, target))
    return float(np.exp(np.abs(np.log(first / other)).max()))


def _mean_shares(prepared):
    """Mean share of the image that each class takes, `(classes,)`, by the labels that are there."""
    axes, task = tuple(range(len(prepared.preprocessing.size))), prepared.task
    hot = (task.one_hot(prepared.label_map(file)) for file in prepared.labels)
    return np.mean([h[..., -len(task.classes) :].mean(axis=axes) for h in hot], axis=0)


def _is_grey(prepared):
    """Whether the first image has one channel, or several that are the same."""
    image = prepared.image(prepared.images[0])
    return bool((image == image[..., :1]).all())
