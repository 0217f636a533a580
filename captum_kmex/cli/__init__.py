"""The ``captum-kmex`` command, one module a subcommand."""
