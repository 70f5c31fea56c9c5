"""Faults brought about on purpose, on real processes: what was tried, what came out, and how long recovery took.

`trial` is what a scenario is given, `table` names them all, and each other module is one or more of them.
"""
