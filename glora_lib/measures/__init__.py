"""Numbers about models and about records: sizes, operations and speed, geometry, features, tables of comparisons.

Open `sizes` for parameters by formula, `table` for means, spread and paired differences.
"""
