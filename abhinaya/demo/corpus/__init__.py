"""A synthetic corpus in the layout of an MSP-Podcast release."""
