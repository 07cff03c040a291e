"""Squares of real photos; weights at random in the files of the published networks."""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.scores import real_photos, squares_of
from model.scores.published import library_of


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with real photos, and SqueezeNet's weights."""
    if not (folder := os.environ.get("RETRIEVEGAN_DATA")):
        pytest.skip("RETRIEVEGAN_DATA names no folder with real photos")
    return Path(folder)


@pytest.fixture(scope="session")
def squares(data: Path) -> NDArray[np.uint8]:
    """Four squares side by side of each of 12 photos: (48, 128, 128, 3)."""
    return squares_of(real_photos(data)[:12], 2)


@pytest.fixture(scope="session")
def random_inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as torch-fidelity reads it."""
    if not find_spec("torch_fidelity"):
        pytest.skip("extra eval is not installed: no torch-fidelity")
    library_of("torch_fidelity")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save({}, path)
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = FeatureExtractorInceptionV3("x", ["2048"], str(path))
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):  # as it is made, features hardly differ
                nn.init.kaiming_normal_(layer.weight)
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def random_alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as torchvision publishes it."""
    if not find_spec("lpips"):
        pytest.skip("extra eval is not installed: no lpips")
    library_of("torchvision")
    from torchvision.models import alexnet

    path = tmp_path_factory.mktemp("weights") / "random.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(alexnet(weights=None).state_dict(), path)
    return path
