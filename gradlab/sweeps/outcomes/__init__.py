"""What a sweep leaves: results, their table and files, what may be concluded from them, other programs' formats."""
