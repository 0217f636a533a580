"""A network that has been run and returns what it returned: its forward pass costs nothing.

An attribution of it does what it does for the network, but for the forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from benchmarks.layer_outputs import layer_outputs

__all__ = ["Replay", "record"]


class Replay(nn.Module):
    """A network that has been run: its layers return what they returned, its head runs again.

    Args:
        outputs: Outputs (N, D_l, h_l, w_l) of the layers, by name, shallow to deep; the last is
            what is pooled. Names have no dots.
        fc: The linear layer on the pooled map.
    """

    def __init__(self, outputs: dict[str, Tensor], fc: nn.Linear) -> None:
        super().__init__()
        self.outputs = outputs
        for name in outputs:
            self.add_module(name, nn.Identity())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = fc
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, J) of the images that were run; these are not looked at."""
        found = images
        for name, output in self.outputs.items():
            found = self.get_submodule(name)(output)
        logits: Tensor = self.fc(self.pool(found).flatten(1))
        return logits


def record(model: nn.Module, layers: Sequence[str], inputs: Tensor) -> Replay:
    """Run a network whose head is a linear ``fc`` on the pooled last layer; return its replay."""
    head = model.get_submodule("fc")
    if not isinstance(head, nn.Linear):
        raise TypeError(f"the head is no linear layer but {type(head).__name__}")
    outputs = layer_outputs(model, layers, inputs)
    return Replay(dict(zip(layers, outputs, strict=True)), head)
