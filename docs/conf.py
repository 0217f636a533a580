"""Sphinx configuration: ``sphinx-build -W --keep-going docs docs/_build/html``."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small networks are slower with more threads

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE.parent), str(_HERE / "_extensions")]

from captum_kmex import __version__  # noqa: E402  # of this checkout

project = "captum_kmex"
author = "The captum_kmex authors"
copyright = "2026, the captum_kmex authors"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx_copybutton",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]

# every ```python block of these pages is run, and what it prints and draws is shown below it
_executed = {  # page: the page whose names it goes on with
    "tutorial": None,
    "export": None,
    "other_models": None,
    "signals": None,
    "from_grad_cam": "tutorial",
    "choose_layers": "tutorial",
    "choose_k": "tutorial",
    "your_data": "tutorial",
    "multi_label": "tutorial",
    "read_a_ledger": "tutorial",
    "contrast": "tutorial",
    "concepts": "tutorial",
    "captum_tools": "tutorial",
    "other_segments": "tutorial",
    "banks": "tutorial",
    "troubleshoot": "tutorial",
}
nb_custom_formats = {
    f"/{page}.md": ("notebooks.read", {"path": str(_HERE / f"{page}.md"), "goes_on_with": other})
    for page, other in _executed.items()
}
nb_execution_mode = "cache"
nb_execution_cache_path = str(_HERE / "_build" / "executed")
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_output_stderr = "remove"
nb_merge_streams = True
nb_code_prompt_show = "Show the tutorial's code"  # the one thing that is hidden
nb_code_prompt_hide = "Hide the tutorial's code"

myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"captum_kmex {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}
