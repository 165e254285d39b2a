"""Tests of Faregate."""
