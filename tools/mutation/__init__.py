"""Breaks the code in one place after another, and sees whether a test notices."""
