"""What the three attributions share: inputs, one forward pass, the head, Captum's contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar, cast

import torch
from captum.attr import LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from captum_kmex.arguments import Setting, checked
from captum_kmex.arguments.inputs import Inputs, check_forward_args, check_inputs
from captum_kmex.arguments.objects import engine_of
from captum_kmex.attributions.one_position import position_of
from captum_kmex.exceptions import warn_user
from captum_kmex.model.activations import layer_name
from captum_kmex.model.called import CalledModel, check_module
from captum_kmex.model.chosen_output import ChosenOutput, original
from captum_kmex.model.frozen_reader import ModelReader
from captum_kmex.model.head import HeadSite
from captum_kmex.model.layout import Layout
from captum_kmex.model.opaque import plain_model
from captum_kmex.model.prepared import Preparation
from captum_kmex.model.reading import Reading, Site, Source, read
from captum_kmex.model.tail_sites import ExactTail

__all__ = ["Layer", "PrototypeAttribution", "as_arguments", "logged"]

Layer = str | nn.Module
_P = ParamSpec("_P")
_R = TypeVar("_R")
_Attribution = TypeVar("_Attribution", bound="PrototypeAttribution")

_PREPARE_GOES = (
    "prepare() is deprecated and will be gone in 0.3: fold the batch norms of a copy of your model "
    "and explain that, see 'A faster forward pass' in the documentation"
)
_LAYOUTS: dict[str, Layout] = {"channels_first": 1, "channels_last": -1}


def logged(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Wrap a public method in Captum's usage log; Captum calls what is inside by itself."""
    return cast("Callable[_P, _R]", log_usage()(function))


def as_arguments(args: object) -> tuple[object, ...]:
    """Return ``additional_forward_args``, which Captum takes bare too, as a tuple."""
    if args is None:
        return ()
    return args if isinstance(args, tuple) else (args,)


class PrototypeAttribution(LayerAttribution):  # type: ignore[misc]  # captum is untyped here
    """Base of the attributions: one forward pass of a plain module, without gradients."""

    layout = Setting["str | None"]()
    output = Setting["str | int | None"]()

    def __init__(
        self,
        model: nn.Module,
        layer: object,
        head: Layer | None,
        layout: str | None,
        output: str | int | None,
    ) -> None:
        super().__init__(model, layer)
        self.head = head
        self.layout = layout
        self.output = output
        self._site: Site | str | None = None
        self._preparation: Preparation | None = None
        self._called: CalledModel | None = None
        self._chosen: ChosenOutput | None = None

    @classmethod
    def get_name(cls: type[PrototypeAttribution]) -> str:
        """Return the class name; Captum would split it at every capital."""
        return cls.__name__

    def has_convergence_delta(self) -> bool:
        """Return ``True``: the maps add up to a number that can be checked."""
        return True

    @property
    def multiplies_by_inputs(self) -> bool:
        """``True``: the map is a share of the output, not a sensitivity."""
        return True

    @property
    def model(self) -> nn.Module:
        """The module inside any wrapper; of a function, one with the modules that it calls.

        Where one of several outputs is explained, or one position of a map of outputs, a module
        with the same parts that returns that alone.
        """
        model, position = self._whole_model(), position_of(self)
        if self.output is None and not position:
            return model
        if self._chosen is None or not self._chosen.is_of(model, self.output, position):
            self._chosen = ChosenOutput(model, self.output, position)
        return self._chosen

    def _whole_model(self) -> nn.Module:
        """Return the module, with all of its outputs."""
        function = self.forward_func
        if isinstance(function, nn.Module) or engine_of(function) or not callable(function):
            return plain_model(function, self.get_name())
        if self._called is None or self._called.function is not function:
            self._called = CalledModel(function, self._given_layers())
        return self._called

    @property
    def is_prepared(self) -> bool:
        """Whether explanations run a prepared copy of the model."""
        return self._preparation is not None

    def prepare(self: _Attribution) -> _Attribution:
        """Explain from now on with a private copy of the model that runs faster. Deprecated.

        A copy of your own gains as much (``docs/faster_models.md`` has the ten lines); this method
        will be gone in 0.3.

        In the copy, batch norms are folded into the convolutions before them and weights lie
        channels-last; without such batch norms, only the latter. Features differ by rounding.
        The first explanation runs the model too and compares. The copy is made again when
        parameters, buffers, modules or hooks of the model change, but writes through
        ``tensor.data`` and to inference tensors go unseen: call ``prepare`` after them. One
        position of a map of outputs is explained with the model itself.

        Returns:
            The object itself. Banks, files and copies do not hold the prepared weights.

        Raises:
            ValueError: The model cannot be copied, or not be traced by ``torch.fx``; the
                message has the reason. The object stays as it was.

        Note:
            The weights take twice the memory. Models of few convolutions gain little.
        """
        warn_user(_PREPARE_GOES, DeprecationWarning)
        model, preparation = self.model, Preparation()
        check_module(original(model), "prepare()")
        layers = self._given_layers()
        preparation.current(model, [layer_name(model, layer) for layer in layers])
        self._preparation = preparation
        return self

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are; the CPU for a model without any."""
        return next(self.model.parameters(), torch.empty(0)).device

    @checked
    def logits(self, inputs: Inputs, additional_forward_args: object = None) -> Tensor:
        """Return the model's logits (N, J), as explanations see them.

        Raises:
            ValueError: Malformed inputs, or a model that returns something else.
        """
        images = check_inputs(inputs, self.model)
        return self._read(images, [], additional_forward_args, needs_head=False).logits

    def _read(
        self,
        images: tuple[Tensor, ...],
        layers: Sequence[str],
        args: object,
        at_input: bool = False,
        *,
        needs_head: bool = True,
        keeps_refusal: bool = False,
        linearises: bool = False,
        needs_logits: bool = True,
    ) -> Reading:
        """Run the model once, and remember where its head stands."""
        model, args = self.model, as_arguments(args)
        check_forward_args(original(model), images, args)
        reading = read(
            self._source(),
            images,
            layers,
            args,
            at_input=at_input,
            site=self._site,
            needs_head=needs_head and self._own_head() is None,
            keeps_refusal=keeps_refusal,
            linearises=linearises,
            needs_logits=needs_logits,
        )
        self._site = reading.site
        return reading

    def _source(self) -> Source:
        """Return what is read."""
        axis = None if self.layout is None else _LAYOUTS[self.layout]
        preparation = None if position_of(self) else self._preparation
        return Source(self.model, self.head, axis, preparation)

    def _frozen_reader(self, reading: Reading, at_input: bool, reads_tap: bool) -> ModelReader:
        """Return a copy of the model as it is run now, that reads the layers of a pass."""
        check_module(original(self.model), "as_module")
        return ModelReader(
            self._source().running(reading.layers),
            reading.layers,
            at_input,
            reading.site if reads_tap and isinstance(reading.site, (HeadSite, ExactTail)) else None,
            reading.axes,
            reading.tap_axis,
        )

    def _given_layers(self) -> list[Layer]:
        """Return the layers that the user named."""
        given = self.layer
        return [given] if isinstance(given, (str, nn.Module)) else list(given or ())

    def _own_head(self) -> nn.Module | None:
        """Return the linear layer of the user's that is no part of the model, if there is one."""
        head = self.head
        if not isinstance(head, nn.Module) or any(part is head for part in self.model.modules()):
            return None
        return head
