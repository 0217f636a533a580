"""Time and memory of explanations and fits beside those of the usual alternatives."""
