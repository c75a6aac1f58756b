"""What a report says: the sections of its page, made of tables, truth and runs."""
