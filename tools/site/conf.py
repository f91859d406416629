"""How Sphinx draws the course's pages: `make course`. tools/build_site.py lays the sources beside this file.

Everything a page loads lies in its own `_static` folder; nothing is fetched from the network.
"""

project = "kdtutor"
html_title = "kdtutor: knowledge distillation of Transformers"
language = "en"

extensions = ["myst_nb", "sphinx.ext.mathjax"]
nb_execution_mode = "off"  # build_site.py executes them
nb_ipywidgets_js = {}  # `scripts_for_widgets` adds ours, the default ones come from the network
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 6
myst_links_external_new_tab = False
suppress_warnings = [
    "myst.header",  # a heading two levels below the last is shown as it is in Jupyter
    "misc.highlighting_failure",  # a cell with a shell command, !…, is no Python
]

html_theme = "furo"
html_static_path = ["static"]
html_extra_path = ["extra"]  # the outputs' pictures
html_css_files = ["site.css"]
html_js_files = ["site.js", "landing.js"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_theme_options = {
    # The same ink and colours as the figures and widgets; every pair of them has a contrast of at least 4.5:1.
    "light_css_variables": {
        "color-brand-primary": "#005a8f",
        "color-brand-content": "#005a8f",
        "color-brand-visited": "#6b3f7a",
    },
    "dark_css_variables": {
        "color-brand-primary": "#7cc4f5",
        "color-brand-content": "#7cc4f5",
        "color-brand-visited": "#d5a6e6",
    },
}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

# One file: no fonts to load, so formulas are drawn from file:// as well.
mathjax_path = "mathjax/tex-svg-full.js"
mathjax3_config = {
    "svg": {"fontCache": "local"},
    # myst-nb marks what is a formula; a dollar anywhere else is a dollar.
    "tex": {"inlineMath": [["\\(", "\\)"]], "displayMath": [["\\[", "\\]"]]},
    "options": {
        "processHtmlClass": "tex2jax_process|mathjax_process|math|output_area",
        "ignoreHtmlClass": ".*",
    },
}


def scripts_for_widgets(app, pagename, templatename, context, doctree):
    """Load require.js and the widgets' front end on a page that has widgets, in this order and nowhere else."""
    body = context.get("body") or ""
    if 'class="kd-browser"' in body:
        app.add_css_file("student/page.css")
    if "application/vnd.jupyter.widget-state+json" in body:
        app.add_js_file("widgets/require.js")
        app.add_js_file("widgets/paths.js")
        # Should ever a module be missing, it is looked for beside the page, and not on a server.
        app.add_js_file("widgets/embed-amd.js", **{"data-jupyter-widgets-cdn": "_static/widgets/missing/"})


def setup(app):
    app.connect("html-page-context", scripts_for_widgets)
