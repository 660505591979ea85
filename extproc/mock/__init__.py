"""A demo LLM backend that speaks the wire formats of vLLM, so that the recorder can be tried without a GPU.

`generation` decides what is said, one module for each API puts it into that API's shapes, `server` sends it at a
model's pace. It shares no code with the recorder: it would agree with the recorder's mistakes.
"""

from __future__ import annotations
