"""The recorder's logic: bytes and times come in as values, records go out as return values.

Nothing here knows gRPC, asyncio, files or clocks; `tests/unit/test_layering.py` holds it to that.
"""
