"""Deaths of backends: found in the exchanges of a journal, with the requests that may have caused them, ranked."""
