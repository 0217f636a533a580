"""Tasks: a module each; its ``TASKS`` maps a name to what loads the ``Task`` for a preset."""
