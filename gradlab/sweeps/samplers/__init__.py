"""Which trials a sweep runs: designs drawn before, and samplers that look at results."""
