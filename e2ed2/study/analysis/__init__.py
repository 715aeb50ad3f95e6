"""What the votes of a human study show, and how many are needed: from the table of votes alone."""
