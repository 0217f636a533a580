"""The subcommands of ``captum-kmex``, one a module: ``register`` its words, ``run`` the work."""
