"""What the answer to a question is worth: one module for each kind of score, all of them listed in table.py."""
