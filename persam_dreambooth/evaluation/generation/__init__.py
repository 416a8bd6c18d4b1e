"""Evaluation of a subject-driven model: generate pictures for many prompts, measure them, and report."""
