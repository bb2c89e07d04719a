"""Reports: what a history cost and wasted, for terminals, JSON and CSV."""
