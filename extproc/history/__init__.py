"""Everything that reads a journal. How what was written becomes an answer:

    segments/w0-A-000001.jsonl.zst  w0-A-000002.jsonl.open  w1-B-000001.jsonl.open      (journal/lines.py: as lines)
                  \\_____________________/                            |
               Tail: one series, finite or growing                  Tail
                            \\__________________________________________/
                         Merge: lines of several series, by their time
                                              |
             Feed: records with their positions, from the beginning, a time, or a checkpoint on
                                              |
               Joiner: exchanges, each once, when it is final by the watermark (Policy, Parts, alone)
                     |                        |                              |
         Window: in order of start     the follower                   what is in flight, with
                     |               (follow/: spans, metrics)       the workers' LiveTables
           reader: exchanges, in_flight, latest                             |
                     |              index/: a row for each                  |
                     |                        |                             |
                  answers: the same from the index where there is one, else from all of it
                     |                                                      |
       filters, grep, bodies: which of them, what was in them      now, deaths, status

Beside it, over the same series: `lookup` finds exchanges by their ids and positions, decoding hardly a line; `coverage`
says what the journal knows of a time; `verify` whether it is as it was written. `extents` tells them all which segments
can hold an answer. Nothing here writes into the journal, or asks a writer for anything: a reader is right beside one.
"""
