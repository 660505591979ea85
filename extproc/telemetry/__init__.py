"""Spans and metrics as functions of an exchange. Nothing here is on the data path; the follower calls it."""
