"""Tests of the turn, a file for each kind."""
