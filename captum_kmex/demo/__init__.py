"""The demo: a pretrained CNN on photographs, unfitted; a ResNet on MNIST, fitted."""

from captum_kmex.demo.digits import (
    DIGIT_LAYERS,
    SmallResNet,
    digit_resnet,
    load_digits_split,
    train_small_resnet,
)
from captum_kmex.demo.photographs import (
    PHOTO_LAYERS,
    load_efficientnet_lite0,
    load_photographs,
)
from captum_kmex.demo.run import run

__all__ = [
    "DIGIT_LAYERS",
    "PHOTO_LAYERS",
    "SmallResNet",
    "digit_resnet",
    "load_digits_split",
    "load_efficientnet_lite0",
    "load_photographs",
    "run",
    "train_small_resnet",
]
