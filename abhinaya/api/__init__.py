"""What `import abhinaya` offers to programs and notebooks: the commands, as functions."""
