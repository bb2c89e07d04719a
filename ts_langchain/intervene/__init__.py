"""Stepping in: what a policy decides is carried out here, by agent middleware, graph guards and model guards."""
