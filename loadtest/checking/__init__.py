"""What is sent, and whether each answer to it is right."""
