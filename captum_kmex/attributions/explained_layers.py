"""The account of a batch by segments of several layers: allocated or measured, of any classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from captum_kmex.arguments import checked
from captum_kmex.arguments.inputs import Inputs, check_inputs
from captum_kmex.arguments.measured import Measured
from captum_kmex.arguments.targets import Target
from captum_kmex.attributions.one_bank import one_bank_a_call
from captum_kmex.attributions.one_position import one_position_a_call, positions_of_targets
from captum_kmex.attributions.prototype_attribution import logged
from captum_kmex.attributions.stacked_layers import StackedLayersAttribution
from captum_kmex.explaining.account import Account, allocated_accounts
from captum_kmex.explaining.evidence import Question
from captum_kmex.explaining.explainer import Explainer
from captum_kmex.explaining.segmenters import Competition
from captum_kmex.explanation import Explanation
from captum_kmex.measuring.evidence import Measuring
from captum_kmex.measuring.ledger import measured_accounts
from captum_kmex.model.reading import plain_arithmetic

__all__ = ["ExplainedLayersAttribution"]


class ExplainedLayersAttribution(StackedLayersAttribution):
    """An attribution that accounts for logits by the segments of its layers."""

    @logged
    @checked
    @one_position_a_call
    @one_bank_a_call
    def explain(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        *,
        depth: int | str = 0,
        contrast: Target = None,
        restrict: str | None = None,
        connected: bool = False,
        min_area: int = 1,
        segments: Tensor | np.ndarray | None = None,
        evidence: str | Measured = "allocated",
    ) -> Explanation:
        """Return map, segments, class scores, ledger and nearest training patches.

        Args and errors are those of ``attribute``; the map is in logit units.

        Returns:
            An ``Explanation`` of the whole batch.
        """
        images = check_inputs(inputs, self.model)
        explainer = self._explainer(images, additional_forward_args, attribute_to_layer_input)
        start, question = explainer.depth(depth), explainer.question(target, contrast)
        how = explainer.competition(question, restrict, connected, min_area, segments)
        others = images, additional_forward_args
        (account,) = self._accounts(explainer, [question], start, how, others, evidence)
        return Explanation.of(images[0], explainer, question, start, how, account)

    @logged
    @checked
    @positions_of_targets
    @one_bank_a_call
    def explain_targets(
        self,
        inputs: Inputs,
        targets: Sequence[Target],
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        *,
        contrasts: Sequence[Target] | None = None,
        depth: int | str = 0,
        connected: bool = False,
        min_area: int = 1,
        segments: Tensor | np.ndarray | None = None,
        evidence: str | Measured = "allocated",
    ) -> list[Explanation]:
        """Explain several logits of the same images, in the passes of one.

        The segments are the same for all, so the ledgers can be compared row by row. Measured
        evidence removes each part once; only what ``sufficient`` and ``necessary`` tell is tried
        for each target.

        Args:
            inputs: Images (N, C, H, W), or a tuple with the images first.
            targets: What is explained, one after the other, each as ``target`` of ``explain``.
            additional_forward_args: Further arguments of the model.
            attribute_to_layer_input: Read the layers at their input.
            contrasts: What each target is contrasted with, each as ``contrast`` of ``explain``.
            depth: Shallowest layer to include.
            connected: Split segments into connected components.
            min_area: Fewest cells of a connected piece.
            segments: Your own segments, as in ``attribute``.
            evidence: ``"allocated"``, ``"measured"`` or ``Measured(...)``.

        Returns:
            An ``Explanation`` for each target, what ``explain`` returns for it.

        Raises:
            TargetError: Malformed targets, or not as many contrasts.
            ValueError: Malformed inputs, layers or options.
        """
        images = check_inputs(inputs, self.model)
        explainer = self._explainer(images, additional_forward_args, attribute_to_layer_input)
        start, questions = explainer.depth(depth), explainer.questions(targets, contrasts)
        how = explainer.competition(questions[0], None, connected, min_area, segments)
        others = images, additional_forward_args
        accounts = self._accounts(explainer, questions, start, how, others, evidence)
        return [
            Explanation.of(images[0], explainer, question, start, how, account)
            for question, account in zip(questions, accounts, strict=True)
        ]

    def _accounts(
        self,
        explainer: Explainer,
        questions: list[Question],
        depth: int,
        competition: Competition,
        given: tuple[tuple[Tensor, ...], object],
        evidence: str | Measured,
    ) -> list[Account]:
        """Return what there is to say of a batch about some questions, by one kind of evidence."""
        images = given[0][0]
        if evidence != "allocated":
            measure = self._measuring(explainer, *given, evidence)
            return measured_accounts(measure, questions, depth, competition)
        with plain_arithmetic(images):
            return allocated_accounts(images, explainer, questions, depth, competition)

    def _measuring(
        self,
        explainer: Explainer,
        images: tuple[Tensor, ...],
        args: object,
        evidence: str | Measured,
    ) -> Measuring:
        """Return what measures evidence of a batch that was read once."""
        options = evidence if isinstance(evidence, Measured) else Measured()
        others = args if isinstance(args, tuple) else () if args is None else (args,)
        return Measuring(explainer, self._source(), images, others, options)
