"""Choosing among the models of an application, combining their outputs and learning from feedback."""
