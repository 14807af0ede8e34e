"""The champion: its ledger, its state, and registered versions."""
