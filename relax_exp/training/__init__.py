"""Trainers: from a task and a seed to trained replicas, one module for each kind of experience."""
