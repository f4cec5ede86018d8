"""What stage 4 makes of two sets of answers: metrics, statistics, the HTML page."""
