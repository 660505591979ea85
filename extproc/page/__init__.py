"""`extproc page`: what the journal says, for a browser. `server` has the paths, `source` reads, `api` documents."""
