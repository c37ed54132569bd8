"""Package description. The exact, tested environment is requirements.txt; here are the ranges."""

from pathlib import Path

from setuptools import find_packages, setup

version: dict[str, str] = {}
exec(Path("silc/version.py").read_text(encoding="utf-8"), version)

setup(
    name="silc",
    version=version["__version__"],
    description="Open trainer for SILC: image-text contrastive pretraining with local-to-global self-distillation",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["silc", "silc.*"]),
    package_data={
        "silc": ["py.typed"],
        "silc.presets": ["*.yaml"],
        "silc.data.sample_set": ["drawings/*"],
        "silc.data.survey": ["templates/*.j2"],
        "silc.evaluate.report": ["templates/*.j2"],
        "silc.interchange.write": ["templates/*.j2"],
        "silc.claims": ["templates/*.j2"],
    },
    entry_points={"console_scripts": ["silc = silc.commands.main:main"]},
    install_requires=[
        "silc-kernels>=0.1,<0.2",  # the folder kernels of this repository: pip install ./kernels .
        "torch>=2.10",
        "triton>=3.6; platform_system == 'Linux' and platform_machine == 'x86_64'",
        "torchvision>=0.25",
        "deepspeed>=0.19.8,<0.20",
        "webdataset>=1.0.2,<2",
        "braceexpand>=0.1.7,<0.2",
        "open_clip_torch>=3.3,<4",
        "timm>=1.0.31",  # open_clip requires it; silc.model.timm_tower registers a name there
        "numpy>=1.26",  # the lock stays below 2.4: on it triton 3.6's interpreter breaks, which only tests use
        "simplejpeg>=1.9,<2",  # libjpeg-turbo without a detour; its pixels are torchvision's, bit for bit
        "pillow>=13",  # the limits on images from strangers rest on what this version refuses by itself
        "pydantic>=2.7,<3",
        "pyyaml>=6",
        "safetensors>=0.4.3",
        "tqdm>=4.66",
        "psutil>=5.9",
        "jinja2>=3.1.6,<4",
        "markdown-it-py>=3,<5",
        "tensorboard>=2.16",
        "ninja>=1.11",  # builds DeepSpeed's optional ops on first use
    ],
    extras_require={
        "xformers": ["xformers>=0.0.35"],
        "remote": ["obstore>=0.12.1,<0.13"],
        "pack": [
            "pyarrow>=17",
            "datasets>=3",
            "py3langid>=0.3",
        ],  # silc shards pack, show
        "hf": ["transformers>=5,<6"],  # tokenizers, export to Hugging Face
        "onnx": ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20", "tokenizers>=0.22"],  # silc export --to onnx
        "sample": ["resvg-py==0.5.0"],
        "wandb": ["wandb>=0.17"],
        "test": [
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "lightly>=1.5",
            "pyarrow>=17",
            "datasets>=3",
            "py3langid>=0.3",
            "transformers>=5,<6",
            "onnx>=1.17",
            "onnxscript>=0.5",
            "onnxruntime>=1.20",
            "clip-benchmark>=1.6.2,<2",
            "scikit-learn>=1.6",
            "scipy>=1.11",  # the oracle of big_vision's resizing of position tables
            "torchmetrics>=1.4",
            "ruff>=0.6",
            "mypy>=1.11",
            "types-PyYAML>=6",
        ],
        "docs": ["mkdocs-material>=9.5,<10"],
        "bench": ["lightly>=1.5", "matplotlib>=3.8"],
    },
)
