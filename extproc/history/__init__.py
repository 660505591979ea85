"""Questions to the journal: which exchanges, counted by what. Stands on its reader, and knows no terminal."""
