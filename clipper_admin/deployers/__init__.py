"""Deployers: each saves one kind of model, packages it and deploys it."""
