"""Drawn volumes of the head in two contrasts of magnetic resonance, T2 and FLAIR.

Anatomy and contrast are apart: both domains draw their brains from one distribution, and differ in
how bright a tissue is. What FLAIR adds to T2 is that free fluid is dark: the brightest voxels are
the ventricles in one and the oedema in the other.
"""

from dataclasses import astuple, dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from keras_meduda.data.io import replacing
from keras_meduda.data.phantoms.drawing import inside, write_table
from keras_meduda.data.spatial import resize


@dataclass(frozen=True)
class Contrast:
    """Brightness of each tissue, as a share of the brightest.

    Args:
        white: white matter.
        grey: grey matter.
        fluid: in the ventricles and around the brain.
        oedema: tissue around a tumour.
        core: of the tumour.
    """

    white: float
    grey: float
    fluid: float
    oedema: float
    core: float


CONTRASTS = {
    "t2": Contrast(white=0.48, grey=0.56, fluid=1.1, oedema=0.78, core=0.72),
    "flair": Contrast(white=0.55, grey=0.58, fluid=0.30, oedema=0.92, core=0.62),
}


def write_brain(
    folder,
    cases_per_domain=24,
    size=(64, 72, 56),
    seed=0,
    domains=tuple(CONTRASTS),
    spacing=(1.0, 1.0, 1.0),
):
    """Write drawn brains with a tumour as NIfTI, their masks and a case table.

    The skull is taken off: voxels outside of the brain are 0, as in BraTS. Every brain is a patient
    of its own (`group`), about two thirds of them in training, the others in test.

    Args:
        folder: where to write `images/`, `masks/` (1 is the whole tumour) and `cases.csv`; made if
            missing.
        cases_per_domain: number of brains of each contrast. Default 24.
        size: voxels from left to right, back to front and bottom to top. Default `(64, 72, 56)`.
        seed: seed of everything random; equal seeds give equal files. Default 0.
        domains: names of contrasts, out of `"t2"` and `"flair"`. Default both.
        spacing: distance of voxels in mm; the brain fills the volume whatever it is. Default 1.

    Returns:
        The path of the case table, with the columns case, domain, split, group, image and mask;
        paths are relative to it.

    Raises:
        ValueError: if a domain is not the name of a contrast.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_brain(folder, cases_per_domain=1, size=(16, 18, 14)).name
        'cases.csv'
    """
    if unknown := set(domains) - set(CONTRASTS):
        raise ValueError(
            f"write_brain knows the domains {list(CONTRASTS)}, received {sorted(unknown)}."
        )
    folder, rows = Path(folder), []
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])  # stored as BraTS does
    for domain in domains:
        for number in range(cases_per_domain):
            rng = np.random.default_rng([seed, list(CONTRASTS).index(domain), number])
            tissues, tumour = _anatomy(rng, size)
            image = _scan(rng, tissues, CONTRASTS[domain])
            case = f"{domain}_{number:03d}"
            paths = f"images/{case}.nii.gz", f"masks/{case}.nii.gz"
            for path, voxels in zip(paths, (image, tumour), strict=True):
                with replacing(folder / path) as unfinished:
                    nib.save(nib.Nifti1Image(voxels[::-1, ::-1], affine), unfinished)
            split = "train" if number < round(cases_per_domain * 2 / 3) else "test"
            rows.append((case, domain, split, case, *paths))
    return write_table(folder, rows)


def _anatomy(rng, size):
    """Shares of the tissues of `Contrast` in each voxel `(5, *size)`, and the tumour's mask.

    Lengths are in half volumes from the centre, x to the right, y to the front, z upwards.
    """
    x, y, z = (
        np.linspace(-1, 1, n, dtype="float32").reshape([-1 if a == axis else 1 for a in range(3)])
        for axis, n in enumerate(size)
    )

    def ellipsoid(centre, radii):
        places = zip((x, y, z), centre, radii, strict=True)
        return np.sqrt(sum(((v - np.float32(c)) / np.float32(r)) ** 2 for v, c, r in places))

    # Brain: a folded ribbon of grey matter around the white one, fluid in its folds, and two
    # ventricles that bend outwards towards the back.
    half = rng.uniform((0.80, 0.84, 0.80), (0.92, 0.95, 0.92))
    brain = ellipsoid((0, 0, 0), half) * (1 + 0.03 * _clouds(rng, size, 4))
    folds = 0.05 * np.tanh(2 * _clouds(rng, size, 14))
    nuclei = ellipsoid((0, rng.uniform(-0.1, 0.1), -0.15), (0.34, 0.22, 0.16))
    grey = np.maximum(1 - inside(brain + folds, 0.05, 0.78), 0.8 * inside(nuclei, 0.3))
    fluid = 1 - inside(brain + 2 * folds, 0.05, 1.03)
    height, length = rng.uniform((0.11, 0.28), (0.2, 0.42))
    for side in (-1, 1):
        bend = 0.10 + 0.12 * (y - 0.35) ** 2
        ventricle = ellipsoid((0, 0, rng.normal(0.05, 0.02)), (np.inf, length, height))
        ventricle = np.hypot(ventricle, (x - side * bend) / np.float32(rng.uniform(0.06, 0.1)))
        fluid = np.maximum(fluid, inside(ventricle, 0.3))

    # Tumour: an uneven ball somewhere in the brain, its core a part of it; it replaces what is
    # there but for the fluid around the brain.
    direction = rng.normal(size=3)
    centre = half * rng.uniform(0.25, 0.6) * direction / np.linalg.norm(direction)
    radius = rng.uniform(0.26, 0.52)
    uneven = 1 + 0.15 * _clouds(rng, size, 6)
    ball = ellipsoid(centre, radius * rng.uniform(0.8, 1.2, 3)) * uneven
    tumour = (ball < 1) & (brain < 0.95)
    oedema = inside(ball, 0.2) * (brain < 0.95)
    core = inside(ball, 0.2, rng.uniform(0.35, 0.65)) * (brain < 0.95)

    tissues = np.stack([np.ones_like(brain), grey, fluid, oedema, core])
    left = np.ones_like(brain)
    for share in tissues[::-1]:  # what comes last lies on top
        share *= left
        left = left - share
    return tissues * (brain < 1), tumour.astype("uint8")


def _scan(rng, tissues, contrast):
    """The volume as a scanner of this contrast sees it, int16; no two of its pictures are alike."""
    shown = np.array(astuple(contrast)) * rng.normal(1, 0.04, len(tissues))
    signal = np.tensordot(shown.astype("float32"), tissues, axes=1)
    head = tissues.sum(axis=0) > 0
    size = signal.shape
    lesion, depth = tissues[3:].sum(axis=0), gaussian_filter(head.astype("float32"), 1.0)
    signal *= 1 + (0.05 + 0.12 * lesion) * _clouds(rng, size, 10)  # a tumour is patchy
    signal *= 1 - 0.7 * inside(depth, 0.15, 0.62) * (_clouds(rng, size, 12) > 0.8)  # vessels
    signal = gaussian_filter(signal, 0.6) * np.exp(0.12 * _clouds(rng, size, 3))  # coil
    real, imaginary = 0.03 * rng.standard_normal((2, *size), "float32")
    gain = rng.uniform(400, 900)
    return np.where(head, np.rint(gain * np.hypot(signal + real, imaginary)) + 1, 0).astype("int16")


def _clouds(rng, size, cells):
    """Smooth noise of about `cells` spots along each axis, with standard deviation near 1."""
    spots = 1.5 * rng.standard_normal((cells, cells, cells, 1), "float32")
    return resize(spots, size)[..., 0]
