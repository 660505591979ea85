"""Generated from `protos/` by `make proto`; never edited. A test regenerates it and compares."""
