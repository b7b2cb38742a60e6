"""Many runs as lanes of one program."""
