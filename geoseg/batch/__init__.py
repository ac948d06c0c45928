"""Archives: one model over many scenes, with a ledger, engines and one command.

*Sources name Items; the Ledger keeps them; an Engine gives those that wait to Work, which predicts;
Outcomes go into the Ledger; what is done becomes a dataset, a catalog and a report.*
"""
