"""Measures: a module each; its ``MEASURES`` lists the ``Measure`` objects it adds."""
