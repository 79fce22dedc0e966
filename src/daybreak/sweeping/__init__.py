"""Sweeps: many trainings that look for the best settings of a recipe, shared by any number of processes.

Stands on training and report; Optuna proposes settings and keeps the trials. From outside: `sweep.sweep`. (The room is
not called `sweep`: a package of that name would hide the function `db.sweep`.)
"""
