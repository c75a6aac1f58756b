"""The tabs of the page, one a file: what is on it, and what happens when it is used."""
