"""Why it sees it: the gradient of one lesion, and what is made of it."""
