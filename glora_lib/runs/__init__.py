"""Runs and their records: settings in, one JSON file out.

Open `profile` for the settings, `stages` for what a run does, `grid` for how many are computed, `record` for what is kept.
"""
