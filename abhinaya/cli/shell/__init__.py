"""What commands have in common with each other and with the shell: help, completion, --quiet."""
