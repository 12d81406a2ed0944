"""Sphinx: executed notebooks as a searchable book that reads with the network off. `docs/build.py` makes the sources."""

project = "GLoRA, step by step and checked"
html_title = project
extensions = ["myst_nb", "sphinx-mathjax-offline"]
exclude_patterns = ["README.md"]  # a part of index.md

nb_execution_mode = "off"  # notebooks are executed before: by `make reproduce`
nb_render_markdown_format = "gfm"  # tables in outputs
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
myst_heading_slug_func = "docutils.nodes.make_id"  # a heading's anchor is its id in the page
suppress_warnings = ["mystnb.unknown_mime_type"]  # widgets' and plotting libraries' own, beside the HTML that is shown

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_search_summary = False  # it would fetch pages, which a browser forbids from disk
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
