"""A web page on which one listens, sees the votes and understands a decision."""
