"""The figures, one kind a module; ``captum_kmex.visualization`` is their public door."""
