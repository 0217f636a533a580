"""Classes of higher wings that options are told by, as ``module:name``: nothing is imported."""

__all__ = ["ATTRIBUTION", "BANK", "CAPTUM", "COLUMNS", "FITTED", "KMEX", "LAYERS"]

ATTRIBUTION = "captum_kmex.attributions.prototype_attribution:PrototypeAttribution"
FITTED = "captum_kmex.attributions.fitted_attribution:FittedAttribution"
KMEX = "captum_kmex.attributions.kmex:KMExAttribution"
LAYERS = "captum_kmex.attributions.layer_kmeans:LayerKMeansAttribution"
COLUMNS = "captum_kmex.attributions.classifier_prototypes:ClassifierPrototypes"
CAPTUM = "captum.attr._utils.attribution:Attribution"
BANK = "captum_kmex.bank.prototype_bank:PrototypeBank"
