"""Installation of keras_meduda; tool settings live in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="keras-meduda",
    version="0.1.0",
    description="Knowledge distillation and unsupervised domain adaptation for 2D and 3D medical "
    "image segmentation in Keras 3",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["keras_meduda", "keras_meduda.*"]),
    python_requires=">=3.11",
    install_requires=[  # lower bounds: the oldest versions that passed the tests
        "tensorflow>=2.21",
        "keras>=3.15",
        "h5py>=3.11",
        "medpy>=0.5.2",
        "nibabel>=5.3",
        "opencv-python>=4.10",
        "scikit-image>=0.24",
        "imageio>=2.36",
        "pandas>=2.2",
        "scipy>=1.14",
        "matplotlib>=3.9",
        "tyro>=0.9",  # command-line flags from one dataclass
        "rich>=13.9",  # progress bars and tables
        "tensorboard>=2.19",
    ],
    extras_require={
        "gpu": ["tensorflow[and-cuda]>=2.21"],
        "teacher": ["ultralytics>=8.4", "torch>=2.4", "torchvision>=0.19"],  # AGPL-3.0; YOLO, SAM2
        "notebook": ["jupyterlab>=4.2", "nbclient>=0.10"],
        "bench": [
            "monai>=1.4",
            "segmentation-models-pytorch>=0.4",
            "surface-distance-based-measures>=0.1",
            "medicai>=0.0.3",
        ],
        "test": ["pytest>=8.3", "ruff>=0.9"],
    },
)
