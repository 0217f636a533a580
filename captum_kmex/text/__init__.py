"""Names and values as text, for messages, terminals and figures."""
