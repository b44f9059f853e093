"""How findings, figures, tables and checkpoints show themselves in a notebook: HTML without a script or a request.

What JupyterLab, Notebook, VS Code, nbconvert and GitHub's view of a notebook all leave as it is: headings, paragraphs,
tables, <details> and images that carry their own bytes. There is no script, no style sheet and no name, so a hundred
displays in one notebook do not disturb each other. A chart that answers to the pointer is one call away where Plotly's
own renderer is installed: `kc_interp.plots.draw(finding.figures[0])`.
"""

from kc_interp.notebook.display import bundle, html

__all__ = ["bundle", "html"]
