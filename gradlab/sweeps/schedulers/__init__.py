"""For how long a trial runs: what is asked where cohorts of trials halt."""
