"""Engines: the port that services use, and what finds, drives and supervises the real ones."""
