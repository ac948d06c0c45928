"""Archives: one model over many scenes, with a ledger, engines and one command."""
