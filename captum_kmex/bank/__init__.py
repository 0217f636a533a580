"""What a fit leaves: prototypes, what they stand for, and the file they are kept in."""

from captum_kmex.bank.codebook import Codebook
from captum_kmex.bank.fingerprint import ModelFingerprint
from captum_kmex.bank.prototype_bank import PrototypeBank
from captum_kmex.bank.representatives import Representatives
from captum_kmex.bank.ridge_head import Surrogate

__all__ = ["Codebook", "ModelFingerprint", "PrototypeBank", "Representatives", "Surrogate"]
