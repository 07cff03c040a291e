"""Makes banks: plan, cut, assemble, train, derive, and put in place. Called by the commands."""
