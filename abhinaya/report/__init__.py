"""What a report looks like: blocks of text, tables and figures, and the page that holds them."""
