"""Pictures of the package, drawn from its code."""
