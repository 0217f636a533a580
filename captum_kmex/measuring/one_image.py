"""What is found of one image by removing parts, in stages until the leading one is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from captum_kmex.explaining.evidence import Question
from captum_kmex.measuring.account import ImageAccount, image_account
from captum_kmex.measuring.parts import Coalitions, coalitions, patches
from captum_kmex.measuring.posterior import Design
from captum_kmex.measuring.removal import Remover

__all__ = ["OneImage", "stages"]


def stages(labels: Tensor, passes: str) -> list[Coalitions]:
    """Return what is kept of an image, stage by stage; each has all that the one before has.

    Args:
        labels: Its segments ``(*grid)``.
        passes: ``"half"``, two partitions; ``"full"``, three; ``"adaptive"``, two at first.
    """
    two = [labels, patches(labels.shape)]
    three = [*two, patches(labels.shape, is_shifted=True)]
    partitions = {"half": [two], "full": [three], "adaptive": [two, three]}[passes]
    return [coalitions(of_stage) for of_stage in partitions]


@dataclass(frozen=True, eq=False)
class OneImage:
    """One image, of which parts are removed in stages.

    Attributes:
        remover: Runs the model on it.
        stages: What is kept.
        kernel: Gives the prior's covariance of its cells.
    """

    remover: Remover
    stages: Sequence[Coalitions]
    kernel: Callable[[Tensor], Tensor]

    def accounts(
        self, questions: Sequence[Question], priors: Sequence[Tensor]
    ) -> tuple[list[ImageAccount], Tensor]:
        """Return the account for each question, and the logits of the image itself (1, J).

        Each question has the account of the first stage that tells its leading segment, or of
        the last one, whatever is asked beside it.

        Args:
            questions: What is explained of it, each of one image.
            priors: Allocated evidence of each question (P,), of any scale.
        """
        first, *_ = self.stages
        logits = self.remover(first.kept)
        found = self._accounts(first, logits, questions, priors)
        for before, stage in pairwise(self.stages):
            left = [i for i, account in enumerate(found) if not account.tells_the_leading]
            if not left:
                self.remover.skip(len(stage) - len(before))
                continue
            is_added = stage.is_added((len(before) - 2) // 2)
            longer = logits.new_empty(len(logits), len(stage), logits.shape[2])
            longer[:, ~is_added] = logits
            longer[:, is_added] = self.remover(stage.kept[is_added])
            logits = longer
            again = self._accounts(
                stage, logits, [questions[i] for i in left], [priors[i] for i in left]
            )
            for i, account in zip(left, again, strict=True):
                found[i] = account
        return found, logits[0, 1:2]

    def _accounts(
        self,
        stage: Coalitions,
        logits: Tensor,
        questions: Sequence[Question],
        priors: Sequence[Tensor],
    ) -> list[ImageAccount]:
        design = Design(stage.kept[2:].flatten(1).double(), stage.kinds, self.kernel)
        asked = [question.repeated(0, len(stage), logits.device) for question in questions]
        return [
            image_account(stage, question, logits, design, prior)
            for question, prior in zip(asked, priors, strict=True)
        ]
