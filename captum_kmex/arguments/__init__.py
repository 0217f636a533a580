"""What a user may pass: one table of options, by which every public callable checks."""

from captum_kmex.arguments.checking import checked, checked_by_all
from captum_kmex.arguments.indices import check_count, resolve_depth, resolve_index
from captum_kmex.arguments.option import Option
from captum_kmex.arguments.options import OPTIONS, option_of, read_option
from captum_kmex.arguments.settings import Setting

__all__ = [
    "OPTIONS",
    "Option",
    "Setting",
    "check_count",
    "checked",
    "checked_by_all",
    "option_of",
    "read_option",
    "resolve_depth",
    "resolve_index",
]
