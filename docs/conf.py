"""Configuration of the site that `scripts/docs` builds. The pages are read without it too."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_site"))

import datasparse  # noqa: E402

project = "datasparse"
author = "The datasparse developers"
release = version = datasparse.__version__

extensions = [
    "breathe",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    # Of docs/_site.
    "docstrings",
    "namespaces",
    "root_pages",
    "shell_help",
    "signatures",
]
# The gallery's own pages are made of its programs.
exclude_patterns = ["_site", "gallery"]
# A header's page opens namespace datasparse anew, and a struct of C has the name of its typedef.
suppress_warnings = ["config.cache", "duplicate_declaration.c", "duplicate_declaration.cpp"]
highlight_language = "text"

# Anchors of headings, as code hosts make them.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

default_role = "literal"  # `name` in a docstring is code
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # those of a trainer's hooks are not ours
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

breathe_projects = {"datasparse": str(DOCS.parent / "build" / "doxygen" / "xml")}
breathe_default_project = "datasparse"
breathe_show_include = False  # headings have it
breathe_domain_by_extension = {"h": "c", "hpp": "cpp"}
cpp_id_attributes = ["DATASPARSE_API"]
c_id_attributes = ["DATASPARSE_API"]
cpp_maximum_signature_line_length = c_maximum_signature_line_length = 88

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "gallery_pages",
    "capture_repr": (),
    "filename_pattern": r"\.py$",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "write_computation_times": False,
    "show_memory": False,
    "min_reported_time": 1e9,
    "plot_gallery": True,
    "remove_config_comments": True,
    "within_subsection_order": "FileNameSortKey",
    "image_srcset": ["2x"],
    "matplotlib_animations": False,
}

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = f"datasparse {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = html_show_copyright = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#2f6690",
        "color-brand-content": "#2f6690",
    },
    "dark_css_variables": {
        "color-brand-primary": "#8fc1e3",
        "color-brand-content": "#8fc1e3",
    },
}
