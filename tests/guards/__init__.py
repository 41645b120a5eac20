"""Mutations of the guards: each threat's test must fail once what it tests is taken out.

`python -m tests.guards` applies the removals of the table, one at a time, to copies of src/.
"""
