"""`data/index.sqlite`: one row for each final exchange, so that a question need not read the whole journal.

It is a cache, never the truth: made from the journal, and made anew after loss, damage or a new version.
"""
