"""Model and explanation as one plain module, for ``torch.export`` and ONNX."""

from captum_kmex.deployment.models import ExplainedModel, MarginModel, SegmentedModel

__all__ = ["ExplainedModel", "MarginModel", "SegmentedModel"]
