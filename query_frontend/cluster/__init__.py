"""Query frontends among each other."""
