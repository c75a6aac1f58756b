"""Commands that show what was found to people: reports, pages, audits."""
