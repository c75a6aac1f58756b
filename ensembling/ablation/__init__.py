"""Every combination of tables, scored."""
