"""The explorer's views: what is drawn of one model's thought, as figures and tables of plain data.

A view is a function from a `Look` to its panels, one file each. It computes through the library and draws nothing; the
page draws its figures as the report does, both models on one scale.
"""
