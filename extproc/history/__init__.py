"""Everything that reads a journal: exchanges made of its records, and what is asked of them."""
