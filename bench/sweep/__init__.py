"""How a sweep runs: what is to be done, by which processes, and one task to one record."""
