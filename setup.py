"""Installation of keras_meduda; tool settings live in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


class BuildWithWeights(build_py):
    """Puts the released networks of weights/ into the package."""

    def run(self):
        """Builds; an editable installation reads the folder where it is."""
        super().run()
        if not self.editable_mode:
            place = Path(self.build_lib, "keras_meduda", "released_weights")
            aside = shutil.ignore_patterns("README.md", "evaluation")
            shutil.copytree("weights", place, ignore=aside, dirs_exist_ok=True)


setup(
    name="keras-meduda",
    version="0.1.0",
    description="Knowledge distillation and unsupervised domain adaptation for 2D and 3D medical "
    "image segmentation in Keras 3",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["keras_meduda", "keras_meduda.*"]),
    package_dir={"": "."},  # an editable installation then puts this folder on the path
    package_data={"keras_meduda.evaluation.report": ["templates/*"]},
    cmdclass={"build_py": BuildWithWeights},
    entry_points={"console_scripts": ["meduda = keras_meduda.experiment.command_line:main"]},
    python_requires=">=3.11",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
        "Operating System :: Microsoft :: Windows",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
    install_requires=[  # lower bounds: the oldest versions that passed the tests
        "tensorflow>=2.21",
        "keras>=3.15",
        "medpy>=0.5.2",
        "nibabel>=5.3",
        "opencv-python>=4.10",
        "scikit-image>=0.24",
        "imageio>=2.36",
        "tifffile>=2025.1",
        "imagecodecs>=2024.9",  # compressions inside of TIFF
        "pandas>=2.2",
        "scipy>=1.14",
        "matplotlib>=3.10",
        "jinja2>=3.1",  # the report's template
        "itables>=2.9",  # DataTables for the report, MIT, without a network
        "tyro>=0.9",  # command-line flags from one dataclass
        "rich>=13.9",  # progress bars and tables
        "tensorboard>=2.19",
        'psutil>=5.9; sys_platform == "win32"',  # memory, which resource tells elsewhere
    ],
    extras_require={
        "gpu": ["tensorflow[and-cuda]>=2.21"],
        "teacher": ["ultralytics>=8.4", "torch>=2.4", "torchvision>=0.19"],  # AGPL-3.0; YOLO, SAM2
        "dicom": ["pydicom>=3.0", "highdicom>=0.26"],  # series in, SEG out
        "itk": ["SimpleITK>=2.3"],  # NRRD and MetaImage
        "sam": ["onnxruntime>=1.31"],  # MIT; the family of SAM as ONNX files
        "sam2_keras": ["zeromodels>=1.3"],  # Apache-2.0; SAM2 in Keras
        "notebook": ["jupyterlab>=4.2"],
        "docs": ["mkdocs-material>=9.8", "mkdocstrings[python]>=1.0"],
        "serving": ["tensorflow-serving-api>=2.21"],  # warm-up requests, gRPC client
        "export": ["onnx>=1.23", "tf2onnx>=1.17", "onnxruntime>=1.31", "ai-edge-litert>=2.3"],
        "engines": ["onnx>=1.23", "tf2onnx>=1.17", "onnxruntime>=1.31", "openvino>=2025.1"],
        "bench": [
            "monai>=1.4",
            "einops>=0.8",  # for MONAI's UNETR
            "segmentation-models-pytorch>=0.4",
            "surface-distance-based-measures>=0.1",
            "medicai>=0.0.3",
            "keras-meduda[engines]",
        ],
        "test": [
            "pytest>=8.3",
            "pytest-xdist>=3.6",  # two processes, for two cores
            "selenium>=4.40",  # with Debian's chromium and chromium-driver
            "ruff>=0.9",
            "jax>=0.10",  # the other backend that networks run on
            "mlflow-skinny>=3",  # the page on logging
            "nbclient>=0.11",
            "ipykernel>=7.4",
            "keras-meduda[docs,serving,export,engines,dicom,itk,sam,sam2_keras]",
        ],
    },
)
