"""Published results on how training behaves, each reproduced at a size that one core computes in seconds."""
