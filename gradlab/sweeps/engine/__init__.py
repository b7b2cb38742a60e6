"""How a sweep runs: lanes in chunks in cohorts, from halt to halt, with a journal."""
