"""From one forward pass to segments, evidence, votes and the ledger."""
