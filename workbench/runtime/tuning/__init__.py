"""Choosing variants and tunables of kernels, and between two ways to lower a plan, by measurement on the adapter.

`cases` are the calls of a model's device plans, `candidates` what could run each, `trial` checks one against the
reference; `places` are the calls that a rule may rewrite, `duel` runs them both ways. `race` times what passes, `store`
remembers the winner on disk, `tuned` hands it to lowering, `exchange` takes it to other machines, and `tune` does all
of it for a model. Nothing but `tune` ever times anything.
"""
