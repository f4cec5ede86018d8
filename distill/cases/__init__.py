"""What every model of an evaluation is asked: sets of questions, and how each set scores an answer."""
