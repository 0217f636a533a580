"""Methods: a module a package or paper; its ``METHODS`` maps names to what makes a ``Method``."""
